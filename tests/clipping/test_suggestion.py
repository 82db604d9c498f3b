"""Which threshold: the rule on norms whose distribution is known."""

import numpy as np
import pytest

import stabjax


def log_normal(steps, scale=2.0, sigma=0.3, seed=0):
    return scale * np.exp(sigma * np.random.default_rng(seed).normal(size=steps))


def test_a_log_normal_bulk_is_clipped_as_often_as_stated():
    """Three deviations: 0.135 %, at scale exp(3 sigma)."""
    found = stabjax.suggest_max_norm(log_normal(100_000))
    np.testing.assert_allclose(found.max_norm, 2 * np.exp(0.9), rtol=0.01)
    np.testing.assert_allclose(found.clip_fraction, 0.00135, rtol=0.15)
    np.testing.assert_allclose(found.median, 2.0, rtol=0.01)
    np.testing.assert_allclose(found.tail, 2 * np.exp(0.3 * 2.326), rtol=0.01)
    np.testing.assert_allclose(found.drift, 1.0, rtol=0.02)


def test_spikes_hardly_move_it():
    norms = log_normal(10_000)
    plain = stabjax.suggest_max_norm(norms)
    norms[::50] = 1e6
    spiky = stabjax.suggest_max_norm(norms)
    np.testing.assert_allclose(spiky.max_norm, plain.max_norm, rtol=0.05)
    assert 0.02 <= spiky.clip_fraction <= 0.022
    assert spiky.largest == 1e6


def test_what_is_not_finite_and_zeros_are_no_part_of_the_bulk():
    norms = log_normal(1000)
    plain = stabjax.suggest_max_norm(norms)
    odd = stabjax.suggest_max_norm(np.r_[norms, np.inf, np.nan, np.zeros(98)])
    assert odd.max_norm == plain.max_norm
    assert (odd.steps, odd.nonfinite) == (1100, 2)
    count = round(plain.clip_fraction * 1000)
    assert odd.clip_fraction == pytest.approx(count / 1100)


def test_more_deviations_clip_less():
    norms = log_normal(1000)
    limits = [stabjax.suggest_max_norm(norms, z_threshold=k) for k in (0, 1, 2, 4)]
    assert sorted(s.max_norm for s in limits) == [s.max_norm for s in limits]
    assert limits[0].clip_fraction == 0.5


def test_prints_what_matters():
    norms = log_normal(1000) * np.geomspace(1, 0.01, 1000)
    norms[7] = np.nan
    found = stabjax.suggest_max_norm(norms)
    text = str(found)
    assert text.startswith(f"max_norm {found.max_norm:.3g} clips ")
    assert "1 of 1000 norms were not finite" in text
    assert f"norms changed by a factor of {found.drift:.3g}" in text
    assert found.drift < 0.1
    assert "times the first" not in str(stabjax.suggest_max_norm(log_normal(1000)))


def test_many_runs_and_one_step():
    runs = np.stack([log_normal(500), log_normal(500, seed=1)])
    assert stabjax.suggest_max_norm(runs).steps == 1000
    assert stabjax.suggest_max_norm(3.0).max_norm == pytest.approx(3.0)


@pytest.mark.parametrize(
    "norms, z_threshold, message",
    [
        ([1.0], -1.0, "z_threshold must be >= 0, got -1.0"),
        ([1.0, -2.0], 3.0, "norms must be >= 0, got -2.0"),
        ([0.0, np.nan], 3.0, "norms must contain a positive finite number"),
        ([], 3.0, "norms must contain a positive finite number"),
    ],
)
def test_bad_arguments_are_named(norms, z_threshold, message):
    with pytest.raises(ValueError, match=message):
        stabjax.suggest_max_norm(norms, z_threshold=z_threshold)


@pytest.mark.parametrize("kind", ["steps", "slope", "beginning"])
def test_norms_that_fall_threefold_are_judged_by_the_last(kind):
    """Large norms at the beginning do not raise the threshold, nor does their fall."""
    steps = np.arange(1000)
    falling = {
        "steps": np.where(steps < 500, 3.0, 1.0),
        "slope": np.clip(3.0 ** (1 - steps / 600), 1.0, None),
        "beginning": 1 + 2 * np.exp(-steps / 50),
    }[kind]
    settled = stabjax.suggest_max_norm(log_normal(1000, scale=0.3))
    found = stabjax.suggest_max_norm(log_normal(1000, scale=0.3) * falling)
    np.testing.assert_allclose(found.max_norm, settled.max_norm, rtol=0.25)
    assert found.settled_at >= 100
    assert found.clip_fraction > found.settled_fraction
    assert f"from {found.settled_at} on" in str(found)
    assert settled.settled_at == 0


def test_norms_that_rise_are_judged_by_the_last_too():
    norms = log_normal(1000, scale=0.3) * np.where(np.arange(1000) < 300, 0.1, 1.0)
    settled = stabjax.suggest_max_norm(log_normal(700, scale=0.3, seed=1))
    found = stabjax.suggest_max_norm(norms)
    np.testing.assert_allclose(found.max_norm, settled.max_norm, rtol=0.15)
    assert found.settled_at == 300
