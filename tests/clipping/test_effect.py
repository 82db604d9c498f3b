"""What a threshold does, from norms whose kind is known."""

import numpy as np
import pytest

import stabjax


def log_normal(steps, scale=1.0, sigma=0.2, seed=0):
    return scale * np.exp(sigma * np.random.default_rng(seed).normal(size=steps))


def test_a_threshold_that_always_clips_is_a_learning_rate():
    found = stabjax.clipping_effect(log_normal(1000, scale=20.0), 1.0)
    assert found.is_learning_rate
    assert found.clip_fraction == 1.0
    np.testing.assert_allclose(1 / found.rate_factor, 20.0, rtol=0.03)
    assert f"rate is divided by {1 / found.rate_factor:.3g} " in str(found)
    assert "Adam undoes" in str(found)


def test_spikes_are_told_from_usual_norms():
    norms = log_normal(2000)
    norms[50::100] = 30.0
    found = stabjax.clipping_effect(norms, 3.0)
    assert (found.early, found.spikes, found.usual) == (0.0, 0.01, 0.0)
    assert not found.is_learning_rate
    assert found.rate_factor == 1.0
    assert "it clips spikes" in str(found)
    often = stabjax.clipping_effect(norms, 1.0)
    assert 0.4 < often.usual < 0.6
    assert "it clips usual norms" in str(often)


def test_early_norms_are_told_from_spikes():
    norms = log_normal(1000) * np.where(np.arange(1000) < 200, 5.0, 1.0)
    norms[900] = 30.0
    found = stabjax.clipping_effect(norms, 2.5)
    assert found.settled_at == 200
    assert 0.19 < found.early <= 0.2
    assert found.spikes == 0.001
    assert "at the beginning, as a warmup does" in str(found)
    assert "does nothing" in str(stabjax.clipping_effect(norms, 100.0))


def test_many_runs_nonfinite_norms_and_scales():
    runs = np.stack([log_normal(500), log_normal(500, scale=10.0, seed=1)])
    runs[0, 7], runs[1, 9:] = 50.0, np.nan
    found = stabjax.clipping_effect(runs, 5.0)
    assert found.steps == 509
    assert found.clip_fraction == 10 / 509
    assert found.spikes == 1 / 509


def test_the_parameter_that_owns_the_norm_is_named():
    a, b = log_normal(100, 3.0), log_normal(100, 1.0, seed=1)
    leaf_norms = {"a": a, "b": b}
    found = stabjax.clipping_effect(np.hypot(a, b), 1.0, leaf_norms=leaf_norms)
    assert found.largest == "a"
    np.testing.assert_allclose(found.largest_share, np.median(a**2 / (a**2 + b**2)))
    assert "a has 90% of the squared norm: clip it separately" in str(found)
    assert found.to_dict()["is_learning_rate"]
    nothing = stabjax.clipping_effect([1.0], 2.0, leaf_norms={"a": [np.nan]})
    assert nothing.largest is None


@pytest.mark.parametrize(
    ("norms", "max_norm", "message"),
    [
        ([1.0], 0.0, "max_norm must be > 0, got 0.0"),
        ([-1.0], 1.0, "norms must be >= 0, got -1.0"),
        ([np.nan], 1.0, "norms must contain a positive finite number"),
    ],
)
def test_bad_arguments_are_named(norms, max_norm, message):
    with pytest.raises(ValueError, match=message):
        stabjax.clipping_effect(norms, max_norm)
