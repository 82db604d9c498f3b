"""Treatments at their own best settings, by paired differences."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from synthetic import RATES, dataset

import stabjax

TREATMENTS = ["a", "b", "c"]


def treated(shifts, seeds=12, noise=0.05, best=(0.03, 0.1, 0.3)):
    rng = np.random.default_rng(0)
    distance = np.log(RATES / np.array(best)[:, None])
    losses = distance[..., None] ** 2 / 2 + np.array(shifts)[:, None, None]
    losses = losses + rng.normal(size=seeds)
    losses = losses + noise * rng.normal(size=(3, 9, seeds))
    return dataset(losses, schedule=TREATMENTS, rate=RATES, seed=range(seeds))


def test_differences_are_those_at_the_own_best_settings():
    found = stabjax.runs.compare(treated([0.0, 0.2, 0.5]), "schedule")
    assert [t.name for t in found.treatments] == TREATMENTS
    best = [t.settings["rate"] for t in found.treatments]
    np.testing.assert_allclose(best, [RATES[2], RATES[4], RATES[6]])
    pairs = [(d.treatment, d.baseline) for d in found.differences]
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]
    for found_one, truth in zip(found.differences, [-0.2, -0.5, -0.3], strict=True):
        _, low, high = found_one.difference
        assert low - 0.03 < truth < high + 0.03  # the grid misses two optima
        assert found_one.p_value < 1e-3
    assert found.best == "a"
    assert "they differ" in str(found)


def test_a_choice_among_near_ties_widens_the_interval():
    runs = treated([0.0, 0.0, 0.0], noise=1.0)
    found = stabjax.runs.compare(runs, "schedule", baseline="a")
    losses = runs.final_loss.transpose("schedule", "seed", "rate").values
    a, b, c = (table[:, table.mean(axis=0).argmin()] for table in losses)
    for one, values in zip(found.differences, (b, c), strict=True):
        paired = stats.ttest_rel(values, a).confidence_interval(0.95)
        ratio = np.diff(one.difference[1:])[0] / (paired.high - paired.low)
        assert 1.01 < ratio < 1.5


def test_an_axis_alone_is_a_paired_t_test():
    runs = treated([0.0, 0.03, 0.5]).isel(rate=4)
    found = stabjax.runs.compare(runs, "schedule", baseline="a")
    a, b, c = runs.final_loss.values
    for one, values in zip(found.differences, (b, c), strict=True):
        test = stats.ttest_rel(values, a)
        interval = test.confidence_interval(0.95)
        np.testing.assert_allclose(one.difference.value, np.mean(values - a))
        np.testing.assert_allclose(one.difference[1:], [interval.low, interval.high])
    raw = [stats.ttest_rel(values, a).pvalue for values in (b, c)]
    adjusted = stats.false_discovery_control(raw, method="by")  # of another kind
    assert adjusted.shape == (2,)
    expected = {True: 2.0, False: 1.0}  # Holm: the smallest p-value times 2
    for one, p, smallest in zip(
        found.differences, raw, np.argsort(np.argsort(raw)) == 0, strict=True
    ):
        least = max(expected[bool(smallest)] * p, 2 * min(raw))
        np.testing.assert_allclose(one.p_value, min(1.0, least))


def test_the_number_of_seeds_needed_has_that_power():
    runs = treated([0.0, 0.02, 0.5], best=(0.1, 0.1, 0.1))
    runs = runs.isel(rate=4, schedule=[0, 1])
    (one,) = stabjax.runs.compare(runs, "schedule").differences
    a, b = runs.final_loss.values
    effect = abs(np.mean(a - b)) / np.std(a - b, ddof=1)

    def power(n):
        quantile = stats.t.ppf(0.975, n - 1)
        return stats.nct.sf(quantile, n - 1, effect * np.sqrt(n))

    assert power(one.seeds_needed - 1) < 0.8 <= power(one.seeds_needed)


def test_equal_treatments_do_not_differ():
    runs = treated([0.0, 0.0, 0.0], best=(0.1, 0.1, 0.1))
    found = stabjax.runs.compare(runs, "schedule")
    assert found.best is None
    assert all(d.p_value > 0.05 for d in found.differences)
    assert "no difference shown; " in str(found)
    same = xr.concat([runs.sel(schedule="a")] * 2, dim="schedule")
    same = same.assign_coords(schedule=["a", "b"])
    (one,) = stabjax.runs.compare(same, "schedule").differences
    assert (one.difference.value, one.p_value, one.seeds_needed) == (0.0, 1.0, None)


def test_more_settings_are_no_advantage():
    """Noise alone: the best of 81 settings is better by luck on its own seeds."""
    rng = np.random.default_rng(0)
    bias = []
    for _ in range(40):
        losses = rng.normal(size=(2, 81, 8))
        losses[1, 1:] = np.inf
        runs = dataset(losses, kind=["many", "one"], setting=range(81), seed=range(8))
        (one,) = stabjax.runs.compare(runs, "kind").differences
        bias.append(one.difference.value)
    assert abs(np.mean(bias)) < 0.25  # 0.85 if chosen and compared on the same seeds


def test_diverged_settings_are_not_chosen():
    runs = treated([0.0, 0.2, 0.5])
    runs["status"][0, 2, 1], runs["status"][1] = 1, 1
    found = stabjax.runs.compare(runs, "schedule")
    a, b, _ = found.treatments
    assert a.settings["rate"] != RATES[2]
    assert not b.stable
    one, _, two = found.differences
    assert (one.difference.value, two.difference.value) == (-np.inf, np.inf)
    assert np.isnan(one.p_value)
    assert "every setting of schedule=b has a diverged run" in str(found)
    assert found.best == "a"


def test_accuracy_numbers_and_treatments_along_trials():
    runs = treated([0.0, 0.2, 0.5])
    runs["test_accuracy"] = -runs.final_loss
    found = stabjax.runs.compare(
        runs, "schedule", variable="test_accuracy", maximize=True
    )
    loss = stabjax.runs.compare(runs, "schedule")
    for one, other in zip(found.differences, loss.differences, strict=True):
        np.testing.assert_allclose(one.difference.value, -other.difference.value)
        assert one.difference.low < one.difference.value < one.difference.high
    assert found.best == "a"
    along = runs.stack(trial=["schedule", "rate"]).reset_index("trial")  # noqa: PD013
    along = along.assign_coords(trial=range(27))
    flat = stabjax.runs.compare(along, "schedule")
    for one, other in zip(flat.differences, loss.differences, strict=True):
        np.testing.assert_allclose(one.difference, other.difference)
    by_rate = stabjax.runs.compare(runs, "rate", baseline=RATES[4])
    assert len(by_rate.differences) == 8
    assert by_rate.to_dict()["differences"][0]["difference"].keys() == {
        "value",
        "low",
        "high",
    }


def test_one_seed_and_few_seeds_are_caveats():
    runs = treated([0.0, 0.2, 0.5])
    one = stabjax.runs.compare(runs.isel(seed=[3]), "schedule")
    assert np.isnan(one.differences[0].p_value)
    assert "one seed: there is no interval" in str(one)
    assert "3 seeds: the halves" in str(
        stabjax.runs.compare(runs.isel(seed=[0, 1, 2]), "schedule")
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda r: stabjax.runs.compare(r, "kind"),
            "axis must be one of schedule, rate, got 'kind'",
        ),
        (
            lambda r: stabjax.runs.compare(r, "schedule", baseline="d"),
            "baseline must be 'a', 'b' or 'c', got 'd'",
        ),
        (
            lambda r: stabjax.runs.compare(r.sel(schedule=["a"]), "schedule"),
            "schedule must have two values to compare",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(treated([0.0, 0.0, 0.0], seeds=2))
