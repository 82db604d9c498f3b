"""Sweeps that evaluate on the way and stop early."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax
from stabjax.problems import Problem

# The weight falls by a factor of 1 - rate at each step, and may not pass 0.5.
PROBLEM = Problem(
    init=lambda key: (jnp.ones(()), jnp.zeros(())),
    loss=lambda w, state: (w**2 / 2, state + 1),
    evaluate=lambda w, state: {"test_loss": jnp.abs(w - 0.5), "seen": state},
    metadata={"maximize": ("seen",)},
)
KEY = jax.random.key(0)
RATES = [0.01, 0.1, 0.2, 0.3, 0.5, 50.0]


def sgd(rate):
    return optax.sgd(rate)


def sweep(**kwargs):
    given = {
        "steps": 24,
        "evaluate_every": 2,
        "record_every": 1,
        "stop": stabjax.EarlyStopping("test_loss", patience=2),
        "chunk_size": 2,
        **kwargs,
    }
    space = stabjax.grid(rate=RATES, seed=range(2))
    return stabjax.sweep(PROBLEM, sgd, space, progress=False, **given)


@pytest.fixture(scope="module")
def runs():
    return sweep()


@pytest.mark.slow
def test_each_run_is_the_training_of_its_point(runs):
    for rate in RATES:
        run = stabjax.train(
            PROBLEM,
            optax.sgd(rate),
            KEY,
            steps=24,
            evaluate_every=2,
            stop=stabjax.EarlyStopping("test_loss", patience=2),
        )
        point = runs.sel(rate=rate, seed=0)
        assert int(point.stopped_at) == int(run.stopped_at)
        assert int(point.best_at) == int(run.best.at)
        np.testing.assert_allclose(point.best_test_loss, run.best.value, rtol=1e-6)
        curve = run.curves["test_loss"]
        np.testing.assert_allclose(point.test_loss_curve, curve, rtol=1e-6)
        np.testing.assert_allclose(point.final_loss, run.final_loss, rtol=1e-6)


def test_a_stopped_run_is_shown_as_such(runs):
    assert runs.test_loss_curve.dims == ("rate", "seed", "evaluated_at")
    assert runs.evaluated_at.values.tolist() == [*range(2, 25, 2)]
    stopped = runs.stopped_at.sel(seed=0).values
    assert stopped[0] == 24 and (stopped[1:5] < 24).all()
    for rate, at in zip(RATES[1:5], stopped[1:5], strict=True):
        point = runs.sel(rate=rate, seed=0)
        assert point.loss.notnull().sum() == at == point.seen
        assert point.test_loss_curve.notnull().sum() == at // 2
    assert runs.status.sel(seed=0).values.tolist() == [0, 0, 0, 0, 0, 1]
    assert np.isinf(runs.test_loss_curve.sel(rate=50.0)).any("evaluated_at").all()
    assert runs.attrs["maximize"] == "seen"


def test_killed_and_resumed_it_has_the_same_bits(runs, tmp_path):
    sweep(store=tmp_path)
    for file in sorted((tmp_path / "chunks").glob("[0-9]*.npz"))[1::2]:
        file.unlink()
    again = sweep(store=tmp_path)
    loaded = stabjax.runs.load(tmp_path)
    for found in (again, loaded):
        assert set(found.variables) == set(runs.variables)
        for name in runs.variables:
            assert found[name].values.tobytes() == runs[name].values.tobytes(), name
    with pytest.raises(ValueError, match="stop is .* in the store and .* here"):
        sweep(store=tmp_path, stop=stabjax.EarlyStopping("test_loss", patience=np.inf))


def hopeless(test_loss, step):
    return (test_loss > 0.3) & (step >= 6)


@pytest.mark.slow
def test_a_function_that_stops_is_resumed_and_rerun(tmp_path):
    runs = sweep(stop=hopeless, store=tmp_path)
    assert runs.stopped_at.sel(seed=0).values.tolist() == [6, 16, 8, 6, 6, 24]
    assert "best_at" not in runs and runs.attrs["when"] == "hopeless"
    for file in sorted((tmp_path / "chunks").glob("[0-9]*.npz"))[1::2]:
        file.unlink()
    again = sweep(stop=hopeless, store=tmp_path)
    for name in runs.variables:
        assert again[name].values.tobytes() == runs[name].values.tobytes(), name
    with pytest.raises(ValueError, match="problem, make_optimizer or a value .* chan"):
        sweep(store=tmp_path, stop=other_hopeless())
    point = runs.sel(rate=0.2, seed=1)
    with pytest.raises(ValueError, match=r"values must .* of stop \(hopeless\)"):
        stabjax.runs.rerun(PROBLEM, sgd, point)
    run = stabjax.runs.rerun(PROBLEM, sgd, point, values={"stop": hopeless})
    np.testing.assert_array_equal(run.curves["test_loss"], point.test_loss_curve)


def other_hopeless():
    """Returns another function of the same name."""

    def hopeless(test_loss, step):
        return (test_loss > 0.4) & (step >= 6)

    return hopeless


def test_a_callback_gets_every_finished_chunk(runs, tmp_path):
    chunks = []
    found = sweep(store=tmp_path, on_chunk=chunks.append)
    assert sum(chunk.sizes["trial"] for chunk in chunks) == 12
    for chunk in chunks:
        assert chunk.test_loss_curve.dims == ("trial", "evaluated_at")
        for trial in range(chunk.sizes["trial"]):
            one = chunk.isel(trial=trial)
            same = found.sel(rate=one.rate, seed=one.seed)
            np.testing.assert_array_equal(one.final_loss, same.final_loss)
            np.testing.assert_array_equal(one.loss, same.loss)
    sweep(store=tmp_path, on_chunk=chunks.append)  # all of them are in the store
    assert sum(chunk.sizes["trial"] for chunk in chunks) == 12
    with pytest.raises(TypeError, match="on_chunk must be a function of a dataset"):
        sweep(on_chunk=3)


def test_rerun_returns_the_best_parameters(runs):
    point = runs.sel(rate=0.2, seed=1)
    run = stabjax.runs.rerun(PROBLEM, sgd, point, record_every=None)
    assert int(run.stopped_at) == int(point.stopped_at)
    np.testing.assert_allclose(run.best.params, 0.8 ** int(point.best_at), rtol=1e-6)
    np.testing.assert_array_equal(run.best.value, point.best_test_loss)
    assert int(run.best.state) == int(point.best_at)


@pytest.mark.slow
def test_epochs_need_one_length_for_all_problems():
    x = np.ones((12, 1), np.float32)

    def problem(batch_size):
        return stabjax.problems.supervised(
            (lambda key: {"w": jnp.ones((1, 1))}, lambda params, x: x @ params["w"]),
            x,
            x,
            optax.squared_error,
            batch_size=batch_size,
        )

    space = stabjax.grid(batch_size=stabjax.static([4, 3]), rate=[0.1])
    given = {"evaluate_every": "epoch", "progress": False}
    with pytest.raises(ValueError, match="the same number of steps .* got 3, 4"):
        stabjax.sweep(problem, sgd, space, epochs=2, **given)
    space = stabjax.grid(batch_size=stabjax.static([4]), rate=[0.1])
    runs = stabjax.sweep(problem, sgd, space, epochs=2, **given)
    assert runs.attrs["steps"] == 6 and runs.sizes["evaluated_at"] == 2


def counting(steps, evaluate=None):
    """A problem that tells how many steps its program has taken."""

    def loss(w, key, step):
        jax.debug.callback(lambda step: steps.append(int(step)), step)
        return jnp.sum((w - 1.0) ** 4) + 0.0 * jax.random.normal(key)

    return Problem(lambda key: jnp.full(2, 3.0), loss, evaluate)


def positive(w):
    return {"positive": jnp.sum(w > 0)}


@pytest.mark.parametrize(
    ("evaluate", "rates", "factor", "taken"),
    [
        (None, [10.0, 1e9], 1e3, 8),
        (None, [0.001, 1e9], 1e3, 40),
        (None, [0.001, 0.002], 0.5, 8),
        (positive, [10.0, 1e9], 1e3, 8),
        (positive, [0.001, 0.002], 0.5, 40),  # what is evaluated changes until the end
    ],
)
@pytest.mark.slow
def test_a_chunk_whose_runs_have_all_diverged_ends(evaluate, rates, factor, taken):
    """After a block of steps, if further steps cannot change the results."""
    steps = []
    problem, space = counting(steps, evaluate), stabjax.grid(rate=rates)
    given = {"steps": 40, "divergence_factor": factor}
    runs = stabjax.sweep(problem, sgd, space, **given)
    jax.effects_barrier()
    assert max(step for step in steps if step < 40) == taken - 1
    for number, rate in enumerate(rates):
        alone = stabjax.train(problem, sgd(rate), jax.random.key(0), **given)
        for name in runs.data_vars:
            expected = {**alone._asdict(), **alone.evaluation}[name]
            np.testing.assert_allclose(runs[name][number], expected, rtol=1e-5)
