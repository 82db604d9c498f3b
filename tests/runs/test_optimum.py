"""The best value of an axis: its interval, and what limits the answer."""

import json

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from synthetic import RATES, dataset, valley

import stabjax
from stabjax.runs.curves import fitted


@pytest.mark.parametrize("best", [0.03, 0.1, 0.25])
def test_a_known_optimum_is_in_a_short_interval(best):
    found = stabjax.runs.optimum(valley(best), "rate")
    value, low, high = found.value
    assert low < value < high
    assert low < best < high
    assert high / low < 1.3
    assert found.edge is None
    assert not found.flat
    assert not found.caveats
    text = str(found)
    assert text.startswith(f"best rate: {found.value} (95% interval, 8 seeds)\nmean")


def test_without_noise_the_minimum_is_exact():
    x = np.log(RATES)
    losses = (x - x[4] - 0.1) ** 2 * (1 + 0.1 * (x - x[4]))
    level = np.array([0.0, 1.0, 3.0])
    runs = dataset(losses[:, None] + level, rate=RATES, seed=[0, 1, 2])
    found = stabjax.runs.optimum(runs, "rate")
    np.testing.assert_allclose(found.value.value, RATES[4] * np.exp(0.1), rtol=1e-4)
    np.testing.assert_allclose(found.value, found.value.value, rtol=3e-3)
    np.testing.assert_allclose(found.mean.value, level.mean(), atol=1e-9)
    half = stats.t.ppf(0.975, 2) * level.std(ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(found.mean.high - found.mean.value, half)


def test_the_interval_of_a_parabola_is_fiellers():
    """Three values: the slope of a parabola, and the ratio of two means."""
    x = np.array([-1.0, 0.0, 1.0])
    runs = valley(1.1, seeds=6, noise=0.1, rates=np.exp(x))
    y = runs.final_loss.transpose("seed", "rate").values
    found = fitted(x, y, confidence=0.9)
    b, c = (y[:, 2] - y[:, 0]) / 2, y[:, 2] - 2 * y[:, 1] + y[:, 0]
    for end in (found.low, found.high):
        test = stats.ttest_1samp(b + c * end, 0.0)
        np.testing.assert_allclose(test.pvalue, 0.1, rtol=1e-3)
    np.testing.assert_allclose(found.at, -b.mean() / c.mean())


@pytest.mark.parametrize("number", [3, 4, 5])
@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_the_interval_of_few_values_holds_the_optimum_and_has_a_caveat(number, noise):
    """Three values half a decade apart miss it in each draw without neighbors."""
    rates = np.sqrt(10) ** np.arange(number) * 0.01
    held = 0
    for draw in range(40):
        rng = np.random.default_rng(draw)
        best = rng.uniform(np.log(rates[1] / 1.5), np.log(rates[-2] * 1.5))
        d = np.log(rates) - best
        losses = (np.exp(d) - d)[:, None] + noise * rng.normal(size=(number, 8))
        runs = dataset(losses, rate=rates, seed=range(8))
        found = stabjax.runs.optimum(runs, "rate")
        assert found.caveats
        held += found.value.low <= np.exp(best) <= found.value.high
    assert held >= 36


def test_five_values_cannot_test_the_curve():
    rates = np.logspace(-3, 1, 5)
    few = stabjax.runs.optimum(valley(0.12, rates=rates), "rate")
    assert few.caveats == (
        "5 values of rate cannot test the fitted curve: the interval extends to the "
        "neighbors of the best value. Sweep at least 6.",
    )
    assert f"Caveat: {few.caveats[0]}" in str(few)
    np.testing.assert_allclose(few.value[1:], rates[[1, 3]])
    np.testing.assert_allclose(few.value.value, 0.12, rtol=0.1)
    assert not stabjax.runs.optimum(
        valley(0.12, rates=np.logspace(-3, 1, 6)), "rate"
    ).caveats


def test_few_values_whose_best_is_at_an_edge_have_an_edge():
    rates = np.logspace(-2, 0, 5)
    found = stabjax.runs.optimum(valley(0.012, rates=rates), "rate")
    assert (found.edge, found.flat, found.value.value) == ("low", False, 0.01)
    assert found.value[1:] == (0.0, pytest.approx(rates[1]))


def test_an_interval_shorter_than_the_places_of_the_curve_holds_the_optimum():
    held = 0
    rates = np.logspace(-3, 5, 9)
    for draw in range(60):
        runs = valley(3.0 + draw / 20, noise=0.003, rates=rates, seed=draw)
        value = stabjax.runs.optimum(runs, "rate").value
        assert value.high / value.low < 1.02
        held += value.low <= 3.0 + draw / 20 <= value.high
    assert held >= 52


@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_best_and_optimum_agree_on_what_is_within_noise(noise):
    for seed in range(5):
        runs = valley(0.1, noise=noise, seed=seed)
        found = stabjax.runs.optimum(runs, "rate")
        best = stabjax.runs.best(runs)
        assert found.within_noise == best.noise_range["rate"]
        space = stabjax.grid(rate=RATES, seed=range(8))
        (rate, _) = stabjax.runs.refine(space, runs).axes
        below, above = (np.searchsorted(RATES, v) for v in found.within_noise)
        assert rate.values[0] == RATES[max(below - 1, 0)]
        assert rate.values[-1] == RATES[min(above + 1, 8)]


@pytest.mark.parametrize(
    ("best", "edge", "bounded"), [(10.0, "high", 1), (1e-4, "low", 2)]
)
def test_an_optimum_beyond_the_grid_is_flagged(best, edge, bounded):
    found = stabjax.runs.optimum(valley(best), "rate")
    assert found.edge == edge
    end = RATES[-1] if edge == "high" else RATES[0]
    assert found.value.value == end
    assert found.value[3 - bounded] in (0.0, np.inf)
    assert np.isfinite(found.value[bounded])
    assert "value of the grid: better values may be outside it" in str(found)


def test_a_flat_valley_is_flagged():
    found = stabjax.runs.optimum(valley(0.1, noise=50.0, seed=1), "rate")
    assert found.flat
    assert found.edge is None
    assert found.value[1:] == (0.0, np.inf)
    assert "flat minimum: 8 seeds" in str(found)
    low, high = found.within_noise
    assert high / low > 2


def test_equal_losses_are_a_flat_valley():
    runs = valley(0.1)
    found = stabjax.runs.optimum(
        runs.assign(final_loss=runs.final_loss * 0 + 1), "rate"
    )
    assert found.flat
    assert found.value[1:] == (0, np.inf)
    assert found.mean == (1, 1, 1)


def test_two_values_have_no_interval():
    found = stabjax.runs.optimum(valley(0.1).isel(rate=[3, 4]), "rate")
    assert np.isnan(found.value.low)
    assert "interval" not in str(found).splitlines()[0]


def test_one_seed_has_no_interval():
    runs = valley(0.1).isel(seed=0)
    found = stabjax.runs.optimum(runs, "rate")
    assert np.isnan(found.value[1:]).all()
    np.testing.assert_allclose(found.value.value, 0.1, rtol=0.2)
    assert not found.flat
    assert "one seed: there is no interval" in str(found)


def test_divergence_bounds_the_optimum():
    runs = valley(0.5)
    lost = runs.rate > 0.2
    runs["final_loss"] = runs.final_loss.where(~lost, np.inf)
    runs["status"] = runs.status.where(~lost, 1)
    found = stabjax.runs.optimum(runs, "rate")
    assert found.edge is None
    assert found.value.value == pytest.approx(RATES[5])
    assert found.value.high == pytest.approx(RATES[6])
    assert "at 0.316 a seed diverges" in str(found)
    assert "3 of 9 values excluded" in str(found)
    one_seed = valley(0.1)
    one_seed["final_loss"][5, 3], one_seed["status"][5, 3] = 1e-9, 1
    assert len(stabjax.runs.optimum(one_seed, "rate").values) == 8


def test_the_interval_beside_a_steep_rise_is_short_and_holds_the_optimum():
    held = []
    for number, best in enumerate(np.geomspace(0.05, 0.3, 12)):
        d = np.log(RATES / best)
        noise = 0.02 * np.random.default_rng(number).normal(size=(len(RATES), 8))
        losses = (np.exp(d) - d)[:, None] + noise
        runs = dataset(losses, rate=RATES, seed=range(8))
        value = stabjax.runs.optimum(runs, "rate").value
        assert value.high / value.low < 1.2  # neighboring rates differ by 1.8
        held.append(value.low <= best <= value.high)
    assert sum(held) >= 11


def test_values_too_far_apart_are_flagged_and_the_interval_is_wide():
    rates = np.logspace(-3, 1, 9)
    d = np.log(rates / 0.05)
    rng = np.random.default_rng(0)
    losses = (np.exp(d) - d)[:, None] + 0.01 * rng.normal(size=(9, 8))
    found = stabjax.runs.optimum(dataset(losses, rate=rates, seed=range(8)), "rate")
    assert "too far apart" in str(found)
    assert found.value.high / found.value.low > 1.1  # by noise alone, 1.02


def test_what_has_not_run_is_left_out_and_counted():
    runs = valley(0.1)
    runs["final_loss"][8], runs["status"][8] = np.nan, -1  # dropped by halving
    runs["final_loss"][2, 3], runs["status"][2, 3] = np.nan, -1
    found = stabjax.runs.optimum(runs, "rate")
    assert (found.seeds, len(found.values)) == (7, 8)
    assert "seeds excluded because some of their runs are missing: 1" in str(found)
    with pytest.raises(ValueError, match="no best value"):
        stabjax.runs.optimum(runs * np.nan, "rate")


def test_runs_of_a_single_seed_so_far_are_not_called_diverged():
    runs = valley(0.1)
    runs["final_loss"][:, 1:], runs["status"][:, 1:] = np.nan, -1
    with pytest.raises(ValueError, match="no point of the runs is complete"):
        stabjax.runs.optimum(runs, "rate")
    with pytest.raises(ValueError, match="final_loss is missing for 63 of 72 runs"):
        stabjax.runs.best(runs)
    assert stabjax.runs.best(runs.dropna("seed")).seeds == 1


def test_other_axes_are_at_the_best_point_or_selected():
    both = xr.concat([valley(0.03) + 1, valley(0.3)], dim="kind")
    both = both.assign_coords(kind=["a", "b"], fixed=3)
    both["status"] = both.status.fillna(0).astype(int) * 0
    found = stabjax.runs.optimum(both, "rate")
    assert found.at == {"kind": "b"}
    assert found.value.low < 0.3 < found.value.high
    assert "at kind=b" in str(found)
    other = stabjax.runs.optimum(both.sel(kind="a"), "rate")
    assert other.at == {}
    assert other.value.low < 0.03 < other.value.high


def test_accuracy_is_maximized_and_infinite_thresholds_are_not_fitted():
    runs = valley(0.1).rename(rate="max_norm")
    runs["test_accuracy"] = 1 - runs.final_loss
    runs["test_accuracy"].attrs["better"] = "higher"
    found = stabjax.runs.optimum(runs, "max_norm", variable="test_accuracy")
    loss = stabjax.runs.optimum(runs, "max_norm")
    np.testing.assert_allclose(found.value, loss.value)
    np.testing.assert_allclose(found.mean.value, 1 - loss.mean.value)
    assert found.mean.low < found.mean.value < found.mean.high
    axis = np.append(RATES[:-1], np.inf)
    unclipped = stabjax.runs.optimum(runs.assign_coords(max_norm=axis), "max_norm")
    assert "max_norm=inf is not part of the fit" in str(unclipped)


def test_values_that_include_0_are_on_a_linear_axis():
    steps = np.array([0, 10, 20, 30, 40])
    rng = np.random.default_rng(0)
    losses = ((steps - 18.0) ** 2 / 100)[:, None] + 0.01 * rng.normal(size=(5, 6))
    runs = dataset(losses, warmup_steps=steps, seed=range(6))
    found = stabjax.runs.optimum(runs, "warmup_steps")
    assert found.value.low < 18 < found.value.high


def test_a_sampled_axis_alone_is_one_too():
    rng = np.random.default_rng(0)
    order = rng.permutation(9)
    runs = valley(0.1).isel(rate=order).swap_dims(rate="trial")
    runs = runs.assign_coords(trial=range(9))
    assert stabjax.runs.optimum(runs, "rate").value == pytest.approx(
        stabjax.runs.optimum(valley(0.1), "rate").value
    )
    pair = runs.assign_coords(decay=("trial", np.zeros(9)))
    with pytest.raises(ValueError, match="'rate', which varies together with decay"):
        stabjax.runs.optimum(pair, "rate")


def test_plain_data_is_json():
    found = stabjax.runs.optimum(valley(0.1), "rate")
    data = json.loads(json.dumps(found.to_dict()))
    assert data["value"] == found.value._asdict()
    assert data["caveats"] == []
    assert repr(found) == str(found)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: stabjax.runs.optimum(r, "x"), "axis must be one of rate, got 'x'"),
        (
            lambda r: stabjax.runs.optimum(r, "rate", variable="loss"),
            r"variable must be one with a value for each run \(final_loss",
        ),
        (
            lambda r: stabjax.runs.optimum(r, "rate", confidence=95),
            r"confidence must be in \(0, 1\), got 95",
        ),
        (
            lambda r: stabjax.runs.optimum(
                r.assign_coords(rate=list("abcdefghi")), "rate"
            ),
            "axis must contain numbers, got 'rate' with 'a'",
        ),
        (
            lambda r: stabjax.runs.optimum(r.assign(status=r.status * 0 + 1), "rate"),
            "rate has no best value",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(valley(0.1))
