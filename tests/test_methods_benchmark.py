"""The comparisons of tuned methods and of warmups run quickly and compare fairly."""

import importlib
import pathlib

import numpy as np
import pytest
import xarray as xr

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def runs_of(losses):
    """Runs with losses of shape (method, setting, seed)."""
    methods, settings, seeds = map(range, losses.shape)
    return xr.Dataset(
        {
            "log_loss": (("method", "setting", "seed"), np.log(losses)),
            "status": (("method", "setting", "seed"), np.isinf(losses).astype(np.int8)),
        },
        {"method": methods, "setting": settings, "seed": seeds},
    )


def test_a_treatment_with_more_settings_to_choose_from_has_no_advantage(script):
    paired = script("paired")
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(100):
        losses = np.exp(rng.normal(size=(2, 30, 16)))
        losses[1, 1:] = np.inf
        runs = runs_of(losses)
        one, other = (paired.tuned(runs, {"method": [k]}) for k in (0, 1))
        differences.append(np.mean(one - other))
    error = np.std(differences) / len(differences) ** 0.5
    assert error < 0.05
    assert abs(np.mean(differences)) < 3 * error


def test_equal_treatments_give_no_claim_and_a_diverging_treatment_is_worse(script):
    paired = script("paired")
    losses = np.exp(np.random.default_rng(0).normal(size=(3, 5, 16)))
    losses[1] = losses[0]
    losses[2, :, 3] = np.inf
    runs = runs_of(losses)
    select = {k: {"method": [k]} for k in range(3)}
    equal = paired.effect(runs, select[1], select[0])
    assert equal[:4] == (1, 1, 1, 1)
    diverging = paired.effect(runs, select[2], select[0])
    assert paired.verdict(diverging) == "worse"
    assert paired.verdict(equal) == ""


def test_p_values_are_adjusted_for_the_number_of_comparisons(script):
    paired = script("paired")
    effects = {k: paired.Effect(1, 1, 1, p, 16) for k, p in enumerate((0.03, 0.01))}
    assert [one.p for one in paired.corrected(effects).values()] == [0.03, 0.02]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "problem", "key"),
    [
        ("methods", "heavy tails", ("none", "heavy tails")),
        ("warmup", "cliff", ("clipping, without warmup", "cliff")),
    ],
)
def test_quick_sweep_and_report(
    script, name, problem, key, tmp_path, standard_promotion, capsys
):
    module = script(name)
    module.train(problem, tmp_path, quick=True)
    effects = module.report(tmp_path, tmp_path)
    # Without clipping, the loss is larger, and with clipping, it is smaller.
    assert (effects[key].ratio > 1) == (name == "methods")
    assert (tmp_path / f"{name}.png").stat().st_size > 2000
    assert "p < 0.001 by Holm's" in capsys.readouterr().out
