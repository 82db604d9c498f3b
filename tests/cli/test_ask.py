"""`stabjax ask`: answers on the command line."""

import json
import pathlib
import sys

import numpy as np
import pytest

from stabjax.cli import main


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "runs"))
    from synthetic import RATES, dataset

    rng = np.random.default_rng(0)
    best = np.array([0.05, 0.1, 0.2])[:, None] * np.array([1.0, 1.2])
    losses = (np.log(RATES) - np.log(best)[..., None]) ** 2 / 2
    losses = losses + np.array([[0.0, 1.0]])[..., None]
    losses = losses[..., None] + 0.05 * rng.normal(size=(3, 2, 9, 6))
    coords = {"width": [16, 8, 4], "kind": ["a", "b"], "rate": RATES}
    runs = dataset(losses, **coords, seed=range(6))
    path = tmp_path_factory.mktemp("runs") / "runs.nc"
    runs.to_netcdf(path, engine="scipy")
    return str(path)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["best", "kind=a"], "mean final_loss: "),
        (["optimum", "rate", "kind=a", "width=8"], "best rate: 0.09"),
        (["compare", "kind"], "a - b: -"),
        (["compare", "kind", "--baseline", "a"], "b - a: "),
        (["compare", "width", "--baseline", "8"], "16 - 8: "),
        (["sensitivity", "rate", "--initial-loss", "4"], "sensitivity to rate: "),
        (["scaling", "rate", "--over", "width", "kind=a"], "best rate = "),
        (["importance", "kind=a"], "  width x rate "),
    ],
)
def test_questions_are_answered(store, words, line, capsys):
    assert main(["ask", store, *words]) == 0
    printed = capsys.readouterr().out
    assert any(text.startswith(line) for text in printed.splitlines()), printed


def test_json_and_a_picture(store, tmp_path, capsys):
    out = tmp_path / "answer.png"
    words = ["optimum", "rate", "kind=a", "rate=0.01", "--json"]
    assert "axis must be one of" in refused(["ask", store, *words], capsys)
    words = ["optimum", "rate", "kind=a", "width=4", "--json", "--out", str(out)]
    assert main(["ask", store, *words]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["value"]["low"] < 0.2 < data["value"]["high"]
    assert data["edge"] is None
    assert out.read_bytes().startswith(b"\x89PNG")
    one = ["ask", store, "optimum", "rate", "width=4", "seed=0", "--json"]
    assert main(one) == 0
    assert json.loads(capsys.readouterr().out)["value"]["low"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "QUESTION must be one of best, optimum, compare"),
        (["optimum", "rat"], "got 'rat'. Did you mean rate?"),
        (["compare", "kin"], "got 'kin'. Did you mean kind?"),
        (["importance", "--name", "clip"], "--name must not be given for importance."),
        (["optimum"], "optimum needs an AXIS, got []."),
        (["importance", "rate"], "importance needs no AXIS, got ['rate']."),
        (["optimum", "rate", "kind=c"], "kind must be one of a, b, got 'c'."),
        (["optimum", "rate", "x=1"], "NAME must be one of width, kind, rate, seed"),
        (["scaling", "rate"], "scaling needs --over, such as --over width."),
        (["compare", "kind", "--baseline", "c"], "--baseline must be one of a, b"),
        (["clipping"], "runs must record clip_grad_norm"),
    ],
)
def test_questions_are_refused_in_one_sentence(store, words, message, capsys):
    assert message in refused(["ask", store, *words], capsys)
