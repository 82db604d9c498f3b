"""The best point: its interval, its rivals, its place in the grid; fresh seeds."""

import json

import numpy as np
import optax
import pytest
import xarray as xr
from scipy import stats

import stabjax

INF, NAN = np.inf, np.nan


def of(values, attrs=(), **coords):
    """A dataset of final losses over these coordinates, the last of which is `seed`."""
    losses = np.asarray(values, float)
    status = np.where(np.isnan(losses), -1, np.isinf(losses)).astype(np.int8)
    dims = [*coords]
    variables = {
        "final_loss": (dims, losses),
        "status": (dims, status),
        "diverged_at": (dims, np.full(losses.shape, 7)),
    }
    return xr.Dataset(variables, coords, dict(attrs))


NOISY = np.random.default_rng(0).normal(size=(5, 6)) + [[3], [1], [0], [1], [3]]
RATES = [0.01, 0.1, 1.0, 10.0, 100.0]


def test_the_value_has_students_interval():
    runs = of(NOISY, rate=RATES, seed=range(6))
    for confidence in (0.95, 0.8):
        best = stabjax.runs.best(runs, confidence=confidence)
        low, high = stats.ttest_1samp(NOISY[2], 0).confidence_interval(confidence)
        np.testing.assert_allclose(best.value, [NOISY[2].mean(), low, high])
    assert best.point == {"rate": 1.0}
    assert best.positions == {"rate": 2}
    assert (best.seeds, best.points) == (6, 5)


def test_points_within_noise_are_those_that_a_paired_test_does_not_reject():
    best = stabjax.runs.best(of(NOISY, rate=RATES, seed=range(6)))
    p = [stats.ttest_rel(row, NOISY[2]).pvalue for row in NOISY]
    expected = [i for i in range(5) if i == 2 or p[i] > 0.05]
    assert best.within_noise == len(expected)
    ends = RATES[expected[0]], RATES[expected[-1]]
    assert best.noise_range == {"rate": ends}


def test_noise_that_all_points_share_hides_nothing():
    shared = np.array([[1.0], [1.1], [1.2]]) + 100 * np.arange(4.0)
    best = stabjax.runs.best(of(shared, rate=RATES[:3], seed=range(4)))
    assert best.within_noise == 1
    assert best.value.low < 0 < best.value.high  # of the value itself


@pytest.mark.parametrize(
    ("rates", "losses", "edge"),
    [
        ([0.1, 0.2, 0.3], [1, 0, 1], False),
        ([0.1, 0.2, 0.3], [0, 1, 1], True),
        ([0.3, 0.2, 0.1], [0, 1, 1], True),
        ([0.1, 0.2, 0.3], [1, 1, 0], True),
        ([0.1, 0.2, INF], [1, 1, 0], False),  # switched off: nothing lies beyond
        ([0.1, 0.2, INF], [1, 0, 1], False),
        ([0, 10, 20], [0, 1, 1], False),  # neither below zero
        ([0, 10, 20], [1, 1, 0], True),
        ([0.1, 0.2, 0.3], [0, 0, 0], False),  # the middle of equal points
        ([0.1], [0], False),
        (["a", "b"], [0, 1], False),
    ],
)
def test_the_edge_of_the_grid_is_flagged(rates, losses, edge):
    losses = np.repeat(np.array(losses, float)[:, None], 2, axis=1)
    best = stabjax.runs.best(of(losses, rate=rates, seed=[0, 1]))
    assert best.at_edge == (("rate",) if edge else ())
    assert ("is at the edge of the grid" in repr(best)) == edge


def test_only_what_is_tuned_is_at_an_edge_and_every_axis_is_named():
    losses = np.arange(8.0).reshape(2, 2, 2)
    runs = of(
        losses, {"optimizer_takes": "rate"}, hidden=[8, 16], rate=[1, 2], seed=[0, 1]
    )
    best = stabjax.runs.best(runs)
    assert best.point == {"hidden": 8, "rate": 1}
    assert best.arguments == {"rate": 1}
    assert best.at_edge == ("rate",)
    assert "  hidden = 8" in repr(best)


def test_larger_is_better_where_the_dataset_says_so():
    runs = of([[1.0, 2.0], [5.0, 6.0], [9.0, INF]], rate=[1, 2, 3], seed=[0, 1])
    runs = runs.assign(accuracy=runs.final_loss.where(runs.status == 0, 1e6))
    assert stabjax.runs.best(runs, "accuracy").point == {"rate": 1}
    runs.accuracy.attrs["better"] = "higher"
    best = stabjax.runs.best(runs, "accuracy")
    assert best.point == {"rate": 2}
    assert best.value.value == 5.5
    assert best.value.low < 5.5 < best.value.high
    assert stabjax.runs.best(runs, "accuracy", maximize=False).point == {"rate": 1}
    reached = stabjax.runs.stable_fraction(runs, target=5.5, variable="accuracy")
    assert reached.fraction.values.tolist() == [0.0, 0.5, 0.5]
    lower = {"target": 5.5, "variable": "accuracy", "maximize": False}
    reached = stabjax.runs.stable_fraction(runs, **lower)
    assert reached.fraction.values.tolist() == [1.0, 0.5, 0.0]


def test_one_seed_shows_no_noise():
    best = stabjax.runs.best(of([[2.0], [1.0], [3.0]], rate=[1, 2, 3], seed=[0]))
    assert best.within_noise is None
    assert np.isnan(best.value.low)
    assert "Add seeds to estimate the noise" in repr(best)


def test_it_prints_in_a_few_lines_and_is_plain_data():
    best = stabjax.runs.best(of(NOISY, rate=RATES, seed=range(6)))
    lines = repr(best).splitlines()
    assert lines[0].startswith(f"mean final_loss: {best.value} (")
    assert lines[0].endswith("(95% interval, 6 seeds, best of 5 points)")
    assert lines[1].startswith("  rate = 1")
    assert lines[2] == "No other point is within noise of it."
    equal = stabjax.runs.best(of(NOISY[[1, 1, 1]], rate=RATES[:3], seed=range(6)))
    assert "3 points are within noise, including this one." in repr(equal)
    data = json.loads(json.dumps(best.to_dict()))
    assert data["point"] == {"rate": 1.0}
    assert data["value"] == best.value._asdict()


def make_optimizer(rate, kind):
    return optax.chain(kind(1.0), optax.sgd(rate))


def make_problem(noise):
    return stabjax.problems.quadratic(noise=noise)


def test_fresh_seeds_are_those_that_did_not_choose():
    space = stabjax.grid(
        rate=[0.01, 0.1], kind=[stabjax.clip], noise=[0.5, 1.0], seed=[3, 1]
    )
    given = {"steps": 10, "target_loss": 0.5, "summaries": ["mean_loss"]}
    runs = stabjax.sweep(make_problem, make_optimizer, space, **given)
    winner = runs.isel(stabjax.runs.best(runs).positions)
    kind = {"kind": stabjax.clip}
    fresh = stabjax.runs.retest(
        make_problem, make_optimizer, winner, seeds=3, values=kind
    )
    assert fresh.seed.values.tolist() == [4, 5, 6]
    assert {"target_at", "mean_loss"} <= set(fresh.data_vars)
    best = stabjax.runs.best(fresh)
    expected = stabjax.runs.best(runs).point
    assert best.point == expected
    with pytest.raises(ValueError, match="a single point .* rate, kind"):
        stabjax.runs.retest(make_problem, make_optimizer, runs)
    with pytest.raises(ValueError, match="'kind' has the label"):
        stabjax.runs.retest(make_problem, make_optimizer, winner)
    with pytest.raises(ValueError, match="seeds must be an integer >= 1, got 0"):
        stabjax.runs.retest(make_problem, make_optimizer, winner, seeds=0)


def test_the_winners_luck_does_not_survive_fresh_seeds():
    """Of forty equal points the best looks good, and is as good as the others."""

    def make(copy):
        return optax.sgd(0.1 + 0.0 * copy)

    problem = stabjax.problems.quadratic(noise=1.0)
    space = stabjax.zipped(copy=np.arange(40.0), seed=np.arange(40))
    runs = stabjax.sweep(problem, make, space, steps=10)
    best = stabjax.runs.best(runs, over=())
    winner = runs.isel(best.positions)
    fresh = stabjax.runs.best(stabjax.runs.retest(problem, make, winner, seeds=40))
    typical = float(runs.final_loss.mean())
    assert best.value.value < 0.2 * typical
    assert fresh.value.low < typical < fresh.value.high
