"""Problems with state, batches and metrics: whatever their functions name."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax
from stabjax.problems import Problem

KEY = jax.random.key(3)
DATA = jnp.asarray(np.random.default_rng(0).normal(size=(24, 3)), jnp.float32)


def init(key):
    params = {"w": jax.random.normal(key, (3,))}
    return params, {"mean": jnp.zeros(3), "count": 0}


def loss(params, batch, state, key, step):
    """Normalized by a running mean, with noise, and weighted by the step."""
    mean = 0.9 * state["mean"] + 0.1 * batch.mean(axis=0)
    noise = 0.1 * jax.random.normal(key, (3,))
    value = jnp.mean(((batch - mean[None]) @ (params["w"] + noise) - 1) ** 2)
    new = {"mean": mean, "count": state["count"] + 1}
    return (
        (1 + step.astype(jnp.float32) / 10) * value,
        new,
        {"size": jnp.abs(params["w"]).max()},
    )


def batch(step, key):
    return jnp.roll(DATA, jax.random.randint(key, (), 0, 24) + 4 * step, axis=0)[:4]


def evaluate(params, state):
    value = jnp.mean(((DATA - state["mean"][None]) @ params["w"] - 1) ** 2)
    return {"held_out": value, "seen": state["count"]}


PROBLEM = Problem(init, loss, evaluate, {"final_loss": "held_out"}, batch)


def loop(problem, optimizer, key, steps):
    """The same training, as one writes it by hand."""
    init_key, key = jax.random.split(key)
    params, state = problem.init(init_key)
    opt_state, sizes = optimizer.init(params), []
    data_key = jax.random.fold_in(key, 2**31 - 2)

    @jax.jit
    def step(params, state, opt_state, count):
        keys = {"key": jax.random.fold_in(key, count), "step": count}
        data = problem.batch(count, data_key)

        def of(params):
            value, *rest = problem.loss(params, state=state, batch=data, **keys)
            return value, tuple(rest)

        (_, (state_, metrics)), grads = jax.value_and_grad(of, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state_, opt_state, metrics

    for count in range(steps):
        params, state, opt_state, metrics = step(params, state, opt_state, count)
        sizes.append(metrics["size"])
    return params, state, sizes


def test_state_batch_step_and_metrics_are_those_of_a_plain_loop():
    optimizer = optax.sgd(0.1, momentum=0.9)
    run = stabjax.train(PROBLEM, optimizer, KEY, steps=12, record_every=1)
    params, state, sizes = loop(PROBLEM, optimizer, KEY, 12)
    chex.assert_trees_all_close((run.params, run.state), (params, state), rtol=1e-5)
    np.testing.assert_allclose(run.metrics["size"], sizes, rtol=1e-5)
    held_out = PROBLEM.evaluate(params, state)["held_out"]
    np.testing.assert_allclose(run.final_loss, held_out, rtol=1e-5)
    assert int(run.evaluation["seen"]) == 12


def test_a_guard_that_skips_a_step_leaves_the_state():
    def spoiled(params, batch, state, key, step):
        batch = jnp.where(step == 5, jnp.nan, batch)
        return loss(params, batch, state, key, step)

    problem = Problem(init, spoiled, evaluate, batch=batch)
    free = stabjax.train(problem, optax.sgd(0.1), KEY, steps=8)
    assert not jnp.isfinite(free.state["mean"]).any()
    guarded = stabjax.skip_if_nonfinite(optax.sgd(0.1))
    run = stabjax.train(problem, guarded, KEY, steps=8)
    assert jnp.isfinite(run.state["mean"]).all()
    assert int(run.state["count"]) == 7


def sgd(rate):
    return optax.sgd(rate)


@pytest.mark.slow
def test_halving_carries_the_state_and_rerun_returns_it(tmp_path):
    """Interrupted and resumed: the same bits, in whatever chunks the runs continue."""
    space = stabjax.grid(rate=np.logspace(-3, -1, 6), seed=range(2))
    runs = stabjax.sweep(PROBLEM, sgd, space, steps=16, chunk_size=4)
    search = {"steps": 16, "rungs": 3, "store": tmp_path}
    found = stabjax.successive_halving(PROBLEM, sgd, space, **search)
    for file in sorted((tmp_path / "chunks").glob("[0-9]*.npz"))[-2:]:
        file.unlink()
    again = stabjax.successive_halving(PROBLEM, sgd, space, **search)
    assert found.final_loss.values.tobytes() == again.final_loss.values.tobytes()
    survived = found.trained_steps == 16
    assert 0 < int(survived.sum()) < survived.size
    np.testing.assert_allclose(
        found.final_loss.where(survived, 0), runs.final_loss.where(survived, 0), 1e-4
    )
    point = runs.isel(rate=2, seed=1)
    run = stabjax.runs.rerun(PROBLEM, sgd, point)
    # The sweep has lanes, which round differently.
    np.testing.assert_allclose(run.final_loss, point.final_loss, 1e-6)
    assert int(run.state["count"]) == 16


def distance(w, key, scale=1.0):
    return scale * jnp.sum((w - jax.random.uniform(key, (2,))) ** 2)


@pytest.mark.parametrize(
    "function",
    [
        lambda w, k: distance(w, k),
        lambda w, *, key: distance(w, key),
        lambda w, step, key: distance(w, key) + 0 * step.astype(jnp.float32),
        lambda w, k, scale=1.0: distance(w, k, scale),
        lambda *given: distance(*given),
        jax.jit(distance),
    ],
)
@pytest.mark.slow
def test_a_loss_names_what_it_needs(function):
    def run(loss):
        problem = Problem(lambda key: jnp.ones(2), loss)
        return stabjax.train(problem, optax.sgd(0.1), KEY, steps=3).params

    np.testing.assert_allclose(run(function), run(distance), rtol=1e-6)
