"""Datasets of trainings: the best point, the share that held, one trial again."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from scipy import stats

import stabjax


def square(w, key):
    return jnp.sum((w - 0.1 * jax.random.normal(key, (2,))) ** 2)


def make_problem(size):
    def evaluate(w, key):
        del key
        return {"near": 1 / (1 + jnp.sum(w * w))}

    return stabjax.problems.Problem(
        lambda key: size * (1 + jax.random.uniform(key, (2,))), square, evaluate
    )


PROBLEM = make_problem(2.0)


def make_optimizer(rate, clip, kind):
    inner = optax.identity() if clip is None else kind(clip)
    return optax.chain(inner, optax.sgd(rate))


SPACE = stabjax.grid(
    rate=[0.01, 0.3, 1.2],
    clip=stabjax.static([None, 0.5]),
    kind=[stabjax.clip_by_global_norm],
    seed=[3, 0, 5],
)


@pytest.fixture(scope="module")
def runs():
    with jax.numpy_dtype_promotion("strict"):
        return stabjax.sweep(PROBLEM, make_optimizer, SPACE, steps=30, target_loss=1.0)


def of(values, **coordinates):
    """A dataset of two rates and two seeds with these final losses."""
    losses = np.array(values, float)
    status = np.where(np.isnan(losses), -1, np.isinf(losses))
    dims = ("rate", "seed")
    return xr.Dataset(
        {
            "final_loss": (dims, losses),
            "status": (dims, status.astype(np.int8)),
            "diverged_at": (dims, np.full(losses.shape, 7)),
            "accuracy": (dims, np.where(np.isnan(losses), np.nan, 1 - losses / 10)),
        },
        {"rate": [0.1, 0.2, 0.3], "seed": [0, 1]},
    )


def test_the_best_is_given_as_the_factory_takes_it(runs):
    found = stabjax.runs.best(runs).point
    assert found == {"rate": 0.3, "clip": None, "kind": "clip_by_global_norm"}
    assert found["clip"] is None
    assert stabjax.runs.best(runs.isel(clip=[1])).point["clip"] == 0.5
    assert stabjax.runs.best(runs.sel(rate=0.01)).point["rate"] == 0.01
    assert stabjax.runs.best(runs, "target_at").point["rate"] == 0.3
    assert stabjax.runs.best(runs, "near", maximize=True).point == found
    one = stabjax.runs.best(runs.isel(seed=0, clip=0, kind=0, rate=1)).arguments
    make_optimizer(**{**one, "kind": stabjax.clip_by_global_norm})


@pytest.mark.slow
def test_a_store_says_as_much(tmp_path):
    space = stabjax.grid(rate=[0.3], clip=stabjax.static([None, 0.5]))
    space = space * stabjax.grid(kind=[stabjax.clip_by_global_norm])
    runs = stabjax.sweep(PROBLEM, make_optimizer, space, steps=2, store=tmp_path)
    loaded = stabjax.runs.load(tmp_path)
    assert repr(stabjax.runs.best(loaded)) == repr(stabjax.runs.best(runs))
    assert stabjax.runs.best(loaded.sel(clip="None")).point["clip"] is None
    with pytest.raises(ValueError, match="'kind' has the label"):
        stabjax.runs.rerun(PROBLEM, make_optimizer, loaded.isel(rate=0, clip=0, kind=0))


def point(runs, *args, **options):
    return stabjax.runs.best(runs, *args, **options).point


def test_a_mean_with_a_diverged_seed_is_never_the_best():
    assert point(of([[1.0, 1.0], [0.0, np.inf], [3.0, 0.0]])) == {"rate": 0.1}
    mixed = of([[4.0, 1.0], [0.0, np.inf], [3.0, 0.0]])
    assert point(mixed) == {"rate": 0.3}
    assert point(mixed, "accuracy", maximize=True) == {"rate": 0.3}
    assert point(mixed, over=()) == {"rate": 0.2}
    assert point(mixed.isel(seed=0)) == {"rate": 0.2}


def test_what_was_not_run_to_the_end_is_left_out():
    assert point(of([[1.0, 1.0], [0.0, np.nan], [3.0, 0.0]])) == {"rate": 0.1}
    with pytest.raises(ValueError, match="no run is complete"):
        stabjax.runs.best(of(np.full((3, 2), np.nan)))


def test_nothing_is_best_where_all_diverged(runs):
    lost = runs.sel(rate=[1.2], clip="None")
    assert (lost.status == 1).all()
    with pytest.raises(ValueError, match="there is no best point .* at step"):
        stabjax.runs.best(lost)


def test_stable_fraction_is_counted_over_seeds(runs):
    found = stabjax.runs.stable_fraction(runs)
    assert found.fraction.dims == ("rate", "clip", "kind")
    np.testing.assert_array_equal(found.fraction[:, 0, 0], [1, 1, 0])
    everything = stabjax.runs.stable_fraction(runs, runs.status.dims)
    np.testing.assert_allclose(everything.fraction, (runs.status == 0).mean())


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_is_wilsons(confidence):
    status = np.array([[0, 0, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1], [0, 1, -1, -1]])
    runs = xr.Dataset({"status": (("rate", "seed"), status.astype(np.int8))})
    found = stabjax.runs.stable_fraction(runs, confidence=confidence)
    for row, (held, size) in enumerate([(4, 4), (3, 4), (0, 4), (1, 2)]):
        expected = stats.binomtest(held, size).proportion_ci(confidence, "wilson")
        interval = (found.low[row], found.high[row])
        np.testing.assert_allclose(interval, expected, atol=1e-12)
        np.testing.assert_allclose(found.fraction[row], held / size)
    nothing = stabjax.runs.stable_fraction(xr.full_like(runs, -1))
    assert nothing.to_array().isnull().all()


def test_a_trial_again_is_the_same_to_the_last_bit(runs):
    kind = {"kind": stabjax.clip_by_global_norm}
    for where in ({"rate": 0.3, "clip": "0.5"}, {"rate": 1.2, "clip": "None"}):
        trial = runs.sel(seed=5, kind="clip_by_global_norm", **where)
        run = stabjax.runs.rerun(PROBLEM, make_optimizer, trial, values=kind)
        for name in ("final_loss", "best_loss", "status", "diverged_at"):
            np.testing.assert_array_equal(getattr(run, name), trial[name])
        np.testing.assert_array_equal(run.summaries["target_at"], trial.target_at)
        assert run.loss.shape == (30,)
        assert np.isfinite(run.loss[: int(run.diverged_at)]).all()
        if run.status == 0:
            np.testing.assert_allclose(
                run.evaluation["near"], 1 / (1 + jnp.sum(run.params**2)), rtol=1e-6
            )


def test_a_trial_again_with_an_axis_of_the_problem():
    def make(rate):
        return optax.sgd(rate)

    space = stabjax.zipped(size=[1.0, 3.0], rate=[0.1, 0.2], seed=[4, 7])
    runs = stabjax.sweep(make_problem, make, space, steps=5, chunk_size=4)
    run = stabjax.runs.rerun(make_problem, make, runs.isel(trial=1), record_every=None)
    np.testing.assert_array_equal(run.final_loss, runs.final_loss[1])
    assert run.loss is None
    assert stabjax.runs.best(runs, over=()).arguments.keys() == {"rate"}


def test_a_trial_again_by_its_values(runs):
    """Of a grid and of random points, as `best` returns them."""
    kind = {"values": {"kind": stabjax.clip_by_global_norm}, "record_every": None}
    point = stabjax.runs.best(runs).point
    run = stabjax.runs.rerun(PROBLEM, make_optimizer, runs, point, **kind)
    expected = runs.sel(rate=0.3, clip="None", kind=point["kind"]).isel(seed=0)
    np.testing.assert_array_equal(run.final_loss, expected.final_loss)

    def make(rate):
        return optax.sgd(rate)

    space = stabjax.sample(5, 0, rate=stats.uniform(0.1, 0.5)) * stabjax.grid(
        seed=[3, 4]
    )
    drawn = stabjax.sweep(PROBLEM, make, space, steps=5)
    point = stabjax.runs.best(drawn).arguments
    found = drawn.isel(drawn.final_loss.mean("seed").argmin(...))
    for seed in (3, 4):
        given = {**point, "seed": seed}
        run = stabjax.runs.rerun(PROBLEM, make, drawn, given, record_every=None)
        np.testing.assert_array_equal(run.final_loss, found.final_loss.sel(seed=seed))
    for wrong, message in (
        ({"rat": 1.0}, r"axes of the sweep \(.*rate.*\), got 'rat'"),
        ({"rate": 0.3}, "must also contain values for clip"),
        ({"rate": 0.31, "clip": 0.5}, "got rate=0.31, which does not match"),
    ):
        with pytest.raises(ValueError, match=message):
            stabjax.runs.rerun(PROBLEM, make_optimizer, runs, wrong, **kind)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda r: stabjax.runs.best(r, "loss"),
            "variable must be one .* got 'loss'",
        ),
        (
            lambda r: stabjax.runs.best(r, over="sede"),
            r"over must be dimensions .*\(rate, clip.*got 'sede'. Did you mean seed\?",
        ),
        (
            lambda r: stabjax.runs.stable_fraction(r, "x"),
            "over must be dimensions of the dataset .* got 'x'",
        ),
        (
            lambda r: stabjax.runs.stable_fraction(r, confidence=95),
            r"confidence must be in \(0, 1\), got 95",
        ),
        (
            lambda r: stabjax.runs.rerun(PROBLEM, make_optimizer, r.isel(rate=0)),
            "one point of a dataset, got one with the dimensions clip, kind, seed",
        ),
        (
            lambda r: stabjax.runs.rerun(
                PROBLEM, make_optimizer, r.isel(rate=0, clip=0, kind=0, seed=0)
            ),
            "'kind' has the label 'clip_by_global_norm', which does not",
        ),
        (
            lambda r: stabjax.runs.rerun(
                PROBLEM,
                make_optimizer,
                r.isel(rate=0, clip=0, kind=0, seed=0),
                values={"lr": 1},
            ),
            r"values must contain axes of the sweep \(rate, clip, kind\), got 'lr'",
        ),
    ],
)
def test_bad_input(runs, call, message):
    with pytest.raises(ValueError, match=message):
        call(runs)
