"""A problem and an optimizer of one's own, in a Python file."""

import sys

import pytest
import xarray as xr

from stabjax.cli import environment, main

TEXT = """
import jax.numpy as jnp
import optax
from neighbor import SCALE
from stabjax.problems import Problem

def curved(curvature):
    return Problem(lambda key: jnp.ones(2), lambda w: curvature * SCALE * jnp.sum(w**2))

ready = curved(1.0)
number = 3

def make_optimizer(lr):
    return optax.sgd(lr)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "prepare_jax", lambda devices: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "neighbor.py").write_text("SCALE = 1.0")
    found = tmp_path / "my_problem.py"
    found.write_text(TEXT)
    return found


def test_a_problem_and_an_optimizer_in_a_file(file, tmp_path, capsys):
    out = str(tmp_path / "runs.nc")
    own = ["--make-optimizer", f"{file}:make_optimizer", "--steps", "9", "--out", out]
    main(["sweep", f"{file}:curved", "curvature=1.0,2.0", "lr=0.1,1.5", *own])
    runs = xr.load_dataset(out, engine="scipy")
    assert runs.sizes == {"curvature": 2, "lr": 2}
    assert runs.attrs["optimizer"] == "make_optimizer"
    main(["sweep", f"{file}:ready", "peak_value=0.1", "--steps", "9"])
    assert "final_loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{file}:curve", "lr=0.1"], "got 'curve'. Did you mean curved?"),
        (["{file}:number", "lr=0.1"], "a function that returns one, got int"),
        (["no.py:curved", "lr=0.1"], "must name a file that exists, got 'no.py'."),
        (
            ["quadratic", "lr=0.1", "--make-optimizer", "sgd"],
            "--make-optimizer must be a file and a name",
        ),
        (
            ["{file}:ready", "rate=1", "--make-optimizer", "{file}:make_optimizer"],
            "got 'rate'",
        ),
    ],
)
def test_mistakes_are_one_sentence(file, words, message, capsys):
    with pytest.raises(SystemExit):
        main(["sweep", *(word.format(file=file) for word in words)])
    assert message in capsys.readouterr().err.splitlines()[-1]
