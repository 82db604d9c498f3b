"""Sensitivity, scaling, importance, what a threshold does, and where to sweep next."""

import json

import numpy as np
import optax
import pytest
import xarray as xr
from synthetic import RATES, dataset, valley

import stabjax


def test_sensitivity_is_the_formula_of_its_authors():
    """E[min(l(r), l_0) - l*], l* = min l(r), here without noise."""
    losses = np.array([4.0, 2.0, 1.0, 3.0, np.inf])
    runs = dataset(losses[:, None], rate=np.logspace(-4, 0, 5), seed=[0])
    found = stabjax.runs.sensitivity(runs, "rate", initial_loss=3.5)
    assert found.sensitivity.value == np.mean([3.5, 2.0, 1.0, 3.0, 3.5]) - 1.0
    assert np.isnan(found.sensitivity.low)
    assert found.decades == pytest.approx(3.0)
    assert found.trains == pytest.approx((1e-3, 1e-1))
    assert found.losses[-1] == 3.5
    assert "3 decades train, from 0.001 to 0.1" in str(found)


def test_sensitivity_has_an_interval_and_takes_the_recorded_loss():
    runs = valley(0.1, noise=0.1)
    runs["loss"] = (("step", "rate", "seed"), np.full((2, 9, 8), 4.0))
    found = stabjax.runs.sensitivity(runs, "rate")
    assert found.initial_loss == 4.0
    low, high = found.sensitivity[1:]
    assert low < found.sensitivity.value < high
    assert found.seeds == 8
    stable = stabjax.runs.sensitivity(valley(10.0), "rate", initial_loss=50.0)
    assert "is at the edge of the grid" in str(stable)
    assert "reach the edge" in str(stable)
    lost = stabjax.runs.sensitivity(valley(0.1), "rate", initial_loss=-9.0)
    assert (lost.decades, lost.sensitivity.value) == (0.0, 0.0)
    assert "no rate trains" in str(lost)
    with pytest.raises(ValueError, match="initial_loss must be given, got None"):
        stabjax.runs.sensitivity(valley(0.1), "rate")
    with pytest.raises(ValueError, match="axis must contain positive finite numbers"):
        stabjax.runs.sensitivity(
            valley(0.1).assign_coords(rate=range(9)), "rate", initial_loss=1.0
        )


def sized(exponents, sizes, noise=0.05, seeds=6, factor=0.1):
    """Runs over sizes, with a power law for the best rate."""
    rng = np.random.default_rng(0)
    grids = np.meshgrid(*sizes.values(), indexing="ij")
    best = np.log(factor) + sum(
        power * np.log(grid) for power, grid in zip(exponents, grids, strict=True)
    )
    rates = np.logspace(-4, 0, 17)
    losses = (np.log(rates) - best[..., None]) ** 2 / 2
    losses = losses[..., None] + rng.normal(size=seeds)
    losses = losses + noise * rng.normal(size=losses.shape)
    return dataset(losses, **sizes, rate=rates, seed=range(seeds))


def test_a_power_law_is_found_and_predicts():
    runs = sized([-0.5], {"width": [4, 8, 16, 32]})
    law = stabjax.runs.scaling(runs, "rate", over="width")
    exponent = law.exponents["width"]
    assert exponent.low < -0.5 < exponent.high
    assert exponent.high - exponent.low < 0.2
    assert 1 <= law.held_out_error < 1.15
    predicted = law.predict(width=256)
    assert predicted.low < 0.1 * 256**-0.5 < predicted.high
    assert not law.caveats
    assert str(law).startswith(f"best rate = {law.factor:.3g} width^")
    assert json.loads(json.dumps(law.to_dict()))["exponents"].keys() == {"width"}
    with pytest.raises(ValueError, match="sizes must be width, got steps"):
        law.predict(steps=3)
    with pytest.raises(ValueError, match="width must be > 0, got -1"):
        law.predict(width=-1)


def test_two_sizes_static_ones_and_the_least_squares_of_numpy():
    runs = sized([-1.0, 0.25], {"width": [2, 4, 8], "steps": [1, 2, 4]})
    runs["width"].attrs["static"] = "[2, 4, 8]"
    law = stabjax.runs.scaling(runs, "rate", over=("width", "steps"))
    for name, truth in (("width", -1.0), ("steps", 0.25)):
        assert law.exponents[name].low < truth < law.exponents[name].high
    rows = [[1.0, *np.log([size["width"], size["steps"]])] for size in law.sizes]
    at = np.log([optimum.value for optimum in law.optima])
    powers, *_ = np.linalg.lstsq(np.array(rows), at)
    found = [np.log(law.factor), *(e.value for e in law.exponents.values())]
    np.testing.assert_allclose(found, powers)
    errors = []
    for k in range(9):
        kept = np.arange(9) != k
        others, *_ = np.linalg.lstsq(np.array(rows)[kept], at[kept])
        errors.append(at[k] - np.array(rows[k]) @ others)
    expected = np.exp(np.sqrt(np.mean(np.square(errors))))
    np.testing.assert_allclose(law.held_out_error, expected)


def test_what_is_not_a_law_is_said():
    narrow = stabjax.runs.scaling(
        sized([-1.0], {"width": [4, 5, 6]}), "rate", over="width"
    )
    assert "width spans only a factor of 1.5" in str(narrow)
    steep = sized([-1.0], {"width": [1, 10, 100, 1000]})
    with pytest.raises(ValueError, match="an optimum inside the grid at 2 or more"):
        stabjax.runs.scaling(
            steep.isel(width=[0, 3], rate=slice(8, 17)), "rate", "width"
        )
    edge = stabjax.runs.scaling(steep.isel(rate=slice(2, 17)), "rate", "width")
    assert "excluded: width=1000 (at an edge)" in str(edge)
    assert len(edge.optima) == 3
    with pytest.raises(ValueError, match="over must be among width, got 'depth'"):
        stabjax.runs.scaling(steep, "rate", over="depth")
    one = stabjax.runs.scaling(steep.isel(seed=[0]), "rate", over="width")
    assert "one seed: there is no interval" in str(one)
    assert np.isnan(one.exponents["width"].low)


def test_optima_that_bend_are_farther_from_the_law_than_noise():
    rates, best = np.logspace(-4, 0, 17), np.log([0.1, 0.05, 0.02, 0.05])
    rng = np.random.default_rng(0)
    losses = (np.log(rates) - best[:, None]) ** 2 / 2
    losses = losses[..., None] + 0.02 * rng.normal(size=(4, 17, 6))
    runs = dataset(losses, width=[1, 2, 4, 8], rate=rates, seed=range(6))
    assert "deviate from the law" in str(stabjax.runs.scaling(runs, "rate", "width"))


def effects(seeds=1, noise=0.0):
    rng = np.random.default_rng(0)
    x, y, z = np.array([0.0, 1.0, 5.0]), np.array([0.0, 2.0]), np.arange(4.0)
    losses = x[:, None, None] + y[None, :, None] * (1 + z) + 0 * z
    losses = losses[..., None] + noise * rng.normal(size=(3, 2, 4, seeds))
    return dataset(losses, x=x, y=y, z=z, seed=range(seeds))


def test_importance_is_the_variance_by_hand():
    runs = effects()
    found = stabjax.runs.importance(runs)
    f = runs.final_loss.isel(seed=0)
    shares = {effect.axes: effect.share.value for effect in found.effects}
    total = float(f.var())
    np.testing.assert_allclose(shares["x",], float(f.mean(["y", "z"]).var()) / total)
    both = float(
        f.mean("x").var() - f.mean(["x", "z"]).var() - f.mean(["x", "y"]).var()
    )
    np.testing.assert_allclose(shares["y", "z"], float(both) / total)
    np.testing.assert_allclose([shares["x", "y"], shares["x", "z"]], 0.0, atol=1e-12)
    np.testing.assert_allclose(sum(shares.values()) + found.rest, 1.0)
    assert [e.share.value for e in found.effects] == sorted(shares.values())[::-1]
    np.testing.assert_allclose(found.marginals["x"].means, f.mean(["y", "z"]))
    assert found.marginals["x"].values == (0.0, 1.0, 5.0)


def test_importance_has_intervals_and_counts_noise():
    found = stabjax.runs.importance(effects(seeds=8, noise=1.0))
    for effect in found.effects:
        assert 0 <= effect.share.low <= effect.share.value <= effect.share.high <= 1
    noise = 1 / 8 / float(effects(8, 1.0).final_loss.mean("seed").var())
    np.testing.assert_allclose(found.noise, noise, rtol=0.3)
    assert found.confidence == 0.95
    assert "%  [" in str(found)


def test_diverged_runs_count_as_the_cap():
    runs = effects()
    runs["status"][2, 1, 3] = 1
    found = stabjax.runs.importance(runs)
    assert found.cap == 11.0
    assert "4% of the runs diverged and count as the largest finite loss" in str(found)
    low = stabjax.runs.importance(runs, cap=4.0)
    assert (
        low.cap == max(max(m.means) for m in low.marginals.values()) or low.cap == 4.0
    )
    assert stabjax.runs.importance(runs, cap=0.5).cap == 0.5
    huge = effects()
    huge["final_loss"][2, 1, 3] = 1e6
    assert "pass a lower cap" in str(stabjax.runs.importance(huge))
    with pytest.raises(ValueError, match="the variable is the same at all points"):
        stabjax.runs.importance(runs, cap=0.0)
    holes = effects()
    holes["final_loss"][0, 0, 0], holes["status"][0, 0, 0] = np.nan, -1
    with pytest.raises(ValueError, match="every point of the grid"):
        stabjax.runs.importance(holes)
    with pytest.raises(ValueError, match="an axis with two values"):
        stabjax.runs.importance(effects().isel(x=0, y=0, z=0))


@pytest.mark.slow
def test_sampled_spaces_are_left_to_optuna():
    pytest.importorskip("optuna")
    rng = np.random.default_rng(0)
    rate, decay = 10 ** rng.uniform(-3, 0, 100), rng.uniform(0, 1, 100)
    runs = dataset((np.log(rate) ** 2)[:, None], trial=range(100), seed=[0])
    runs = runs.assign_coords(rate=("trial", rate), decay=("trial", decay))
    found = stabjax.runs.importance(runs)
    shares = {effect.axes[0]: effect.share.value for effect in found.effects}
    assert shares["rate"] > 0.9
    assert found.effects[0].axes == ("rate",)
    assert "by a forest" in str(found)


SPACE = stabjax.grid(rate=RATES, kind=["a", "b"], seed=range(8))


def kinds(best, worse=5.0):
    both = xr.concat([valley(best), valley(best) + worse], dim="kind")
    both["status"] = (both.final_loss * 0).astype(np.int8)
    return both.assign_coords(kind=["a", "b"]).transpose("rate", "kind", "seed")


def test_the_next_space_is_denser_around_the_best_region():
    found = stabjax.runs.refine(SPACE, kinds(0.1))
    rate, kind, seed = found.axes
    assert kind.values == ("a",)
    np.testing.assert_array_equal(seed.values, range(8))
    assert rate.values[0] == RATES[3]
    assert rate.values[-1] == RATES[5]
    assert len(rate.values) == 9
    np.testing.assert_allclose(np.diff(np.log(rate.values)), np.log(10) / 16)
    assert stabjax.runs.refine(SPACE, kinds(0.1, 0.0)).axes[1].values == ("a", "b")


def test_at_an_edge_the_next_space_goes_beyond():
    for best, end in ((5.0, -1), (1e-3, 0)):
        (rate, *_) = stabjax.runs.refine(SPACE, kinds(best)).axes
        beyond = rate.values[end] / RATES[end]
        assert beyond == pytest.approx(np.sqrt(10) if end else 1 / np.sqrt(10))


def test_integers_infinity_and_what_is_within_noise():
    space = stabjax.grid(steps=[1, 4, 16, 64], max_norm=[0.1, 1.0, np.inf], seed=[0, 1])
    losses = np.array([3.0, 1.0, 0.0, 2.0])[:, None, None] + np.array([0.0, 0.1])
    losses = losses + np.zeros((4, 3, 2))
    runs = dataset(losses, steps=[1, 4, 16, 64], max_norm=[0.1, 1, np.inf], seed=[0, 1])
    steps, threshold, _ = stabjax.runs.refine(space, runs).axes
    assert steps.values.tolist() == [4, 10, 25, 64]
    assert steps.values.dtype.kind == "i"
    assert threshold.values.tolist() == [0.1, 1.0, np.inf]  # all within noise


@pytest.mark.parametrize(
    ("space", "runs", "message"),
    [
        (stabjax.zipped(rate=RATES), valley(0.1), "space must be a grid"),
        (
            stabjax.grid(rate=RATES[:4], seed=range(8)),
            valley(0.1),
            "runs must have the axes of space, got a different 'rate'",
        ),
        (
            stabjax.grid(rate=RATES, seed=range(8)),
            valley(0.1).assign(status=valley(0.1).status * 0 + 1),
            "without a diverged run",
        ),
    ],
)
def test_refine_refuses(space, runs, message):
    with pytest.raises(ValueError, match=message):
        stabjax.runs.refine(space, runs)


def test_what_a_threshold_does_to_recorded_runs():
    def make_optimizer(max_norm):
        clip = stabjax.clip_by_global_norm(max_norm)
        clip = stabjax.with_metrics(clip, "clip", per_leaf=True)
        return optax.chain(clip, optax.sgd(0.01))

    def loss(params, key):
        return 50 * (params["a"] ** 2).sum() + (params["b"] ** 2).sum()

    problem = stabjax.problems.Problem(
        lambda key: {"a": np.ones(2), "b": np.ones(3)}, loss
    )
    space = stabjax.grid(max_norm=[0.1, 1e3])
    runs = stabjax.sweep(problem, make_optimizer, space, steps=30, record_every=1)
    small = stabjax.runs.clipping(runs.sel(max_norm=0.1))
    assert small.is_learning_rate
    assert small.largest == "a"
    assert small.largest_share > 0.99
    none = stabjax.runs.clipping(runs.sel(max_norm=1e3))
    assert (none.clip_fraction, none.rate_factor) == (0.0, 1.0)
    assert stabjax.runs.clipping(runs, max_norm=1e3).steps == 60
    with pytest.raises(ValueError, match="max_norm must be given"):
        stabjax.runs.clipping(runs)
    with pytest.raises(ValueError, match="runs must record other_grad_norm"):
        stabjax.runs.clipping(runs, "other")
