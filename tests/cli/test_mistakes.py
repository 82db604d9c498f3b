"""A hundred and more wrong calls, and the sentence that each gets.

`mistakes.txt` has them: a call after `$` or `>>>`, and below it the sentence, in
which `...` stands for any text, such as a long list of names.
"""

import os
import pathlib
import re
import shlex

import jax
import numpy as np
import optax
import pytest
import xarray as xr

import stabjax
from stabjax.cli import environment, main

TEXT = (pathlib.Path(__file__).parent / "mistakes.txt").read_text()
CALLS = [block.split("\n", 1) for block in TEXT.strip().split("\n\n")]
# A function, an argument or a module that the user of the command line did not write.
OF_PYTHON = re.compile(
    r"make_optimizer|_trial|Traceback|\b(static|range|grid|sweep)\(|stabjax\.|numpy"
    r"|errno|keyword"
)


def number_of(sign):
    return sum(call.startswith(sign) for call, _ in CALLS)


def assert_matches(message, expected):
    pattern = ".*".join(map(re.escape, " ".join(expected.split()).split("...")))
    assert re.fullmatch(pattern, " ".join(message.split())), message


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Datasets and things that are not: runs.nc, seeds.nc, README.md, junk.nc, ..."""
    made = tmp_path_factory.mktemp("calls")
    (made / "README.md").write_text("# text\n" * 100)
    (made / "junk.nc").write_bytes(b"CDF\x01junk")
    (made / "empty").mkdir()
    os.mkfifo(made / "pipe")
    seeds = xr.Dataset({"final_loss": ("seed", [1.0, 2.0])}, {"seed": [0, 1]})
    seeds.to_netcdf(made / "seeds.nc", engine="scipy")
    of_python()["runs"].to_netcdf(made / "runs.nc", engine="scipy")
    return made


def of_python():
    """The names that the calls of Python use."""
    dims = ("rate", "kind", "seed")
    ones = np.ones((2, 2, 2))
    variables = {
        "final_loss": (dims, ones),
        "status": (dims, np.zeros_like(ones, np.int8)),
        "diverged_at": (dims, ones),
        "loss": ((*dims, "step"), np.ones((2, 2, 2, 3))),
    }
    coords = {"rate": [1.0, 2.0], "kind": ["x", "y"], "seed": [0, 1], "step": range(3)}

    def make(rate):
        return optax.sgd(rate)

    return {
        "runs": xr.Dataset(variables, coords),
        "make": make,
        "problem": stabjax.problems.quadratic(),
        "space": stabjax.grid(rate=[0.1]),
        "key": jax.random.key(0),
        **{"np": np, "optax": optax, "stabjax": stabjax, "nan": np.nan},
    }


def test_there_are_a_hundred_of_them():
    assert number_of("$ stabjax ") >= 60
    assert number_of(">>> ") >= 40
    assert len({call for call, _ in CALLS}) == len(CALLS)


@pytest.mark.parametrize(
    ("call", "expected"), [(c, e) for c, e in CALLS if c.startswith("$ ")]
)
def test_of_the_command_line(call, expected, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(environment, "prepare_jax", lambda devices=None: None)
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(call)[2:])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    prefix, message = printed.err.splitlines()[-1].split(" error: ", 1)
    assert prefix.startswith("stabjax")
    assert_matches(message, expected)
    assert not OF_PYTHON.search(message)


@pytest.mark.parametrize(
    ("call", "expected"), [(c, e) for c, e in CALLS if c.startswith(">>> ")]
)
def test_of_python(call, expected, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises((ValueError, TypeError, OSError, AttributeError)) as raised:
        eval(call.removeprefix(">>> "), of_python())
    assert_matches(f"{type(raised.value).__name__}: {raised.value}", expected)
