"""Data sets: epochs, trees of arrays, evaluation a part at a time, preprocessing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import stabjax
from stabjax import problems
from stabjax.problems.data import Dataset, epoch_index, mean_over, permuted

KEY = jax.random.key(0)


def identity_problem(size, batch_size, **kwargs):
    """A problem whose loss is the mean of the drawn numbers."""

    def init(key):
        return {"w": jnp.ones(())}

    def apply(params, inputs):
        return params["w"] * inputs

    x = jnp.arange(float(size))
    return problems.supervised(
        (init, apply), x, x, lambda o, y: o, batch_size=batch_size, **kwargs
    )


@pytest.mark.parametrize("size", [1, 2, 7, 60_000])
def test_a_permutation_is_one(size):
    found = jax.jit(lambda key: permuted(jnp.arange(size), size, key))(KEY)
    np.testing.assert_array_equal(np.sort(found), np.arange(size))


def test_all_permutations_are_equally_likely():
    keys = jax.random.split(KEY, 24_000)
    found = jax.jit(jax.vmap(lambda key: permuted(jnp.arange(4), 4, key)))(keys)
    counts = np.unique(np.asarray(found), axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert np.sum((counts - 1000.0) ** 2 / 1000) < 50  # the 99.9th percentile is 49.7


def test_an_epoch_shows_each_example_once_and_each_epoch_another_order():
    size, batch, per_epoch = 22, 4, 5
    steps = jnp.arange(3 * per_epoch)
    index = jax.jit(jax.vmap(lambda t: epoch_index(size, batch, t, KEY)))(steps)
    epochs = np.asarray(index).reshape(3, per_epoch * batch)
    for epoch in epochs:
        assert len(set(epoch.tolist())) == per_epoch * batch
        assert epoch.min() >= 0 and epoch.max() < size
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()


def test_minibatches_are_epochs_or_drawn_with_replacement():
    problem = identity_problem(12, 4)
    assert problem.metadata["steps_per_epoch"] == 3
    drawn = [problem.batch(jnp.int32(t), KEY)[0] for t in range(3)]
    np.testing.assert_array_equal(np.sort(np.concatenate(drawn)), np.arange(12))
    again = identity_problem(12, 4, replace=True)
    assert again.batch is None and "steps_per_epoch" not in again.metadata
    assert identity_problem(12, None).batch is None


@pytest.mark.parametrize("at_once", [7, 10, 100])
def test_a_mean_in_parts_is_that_of_all(at_once, monkeypatch):
    monkeypatch.setattr("stabjax.problems.data._PART_BYTES", 0)
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    sizes = []

    def measure(inputs, targets):
        sizes.append(len(targets["y"]))
        return {"m": jnp.mean(inputs * targets["y"][:, None])}

    examples = Dataset(x, {"y": x[:, 0]})
    found = jax.jit(lambda: mean_over(examples, at_once, measure))()
    np.testing.assert_allclose(found["m"], np.mean(x * x[:, :1]), rtol=1e-5)
    assert max(sizes[1:]) <= at_once  # the first is a single example


def test_data_may_be_trees_and_change_before_the_module():
    x = {"a": np.arange(6, dtype=np.uint8), "b": np.ones((6, 2), np.float32)}

    class Sum(nnx.Module):
        def __init__(self, rngs):
            self.w = nnx.Param(jnp.ones(()))

        def __call__(self, inputs):
            return self.w * inputs["a"] + inputs["b"].sum(-1)

    def preprocess(batch):
        inputs, targets = batch
        return {**inputs, "a": inputs["a"] / 2}, targets

    def augment(batch, key):
        inputs, targets = batch
        return {**inputs, "b": inputs["b"] + jax.random.uniform(key)}, targets

    problem = problems.supervised(
        Sum,
        x,
        np.zeros(6, np.float32),
        lambda o, y: o,
        preprocess=preprocess,
        augment=augment,
    )
    params = problem.init(KEY)
    assert float(problem.evaluate(params, KEY)["train_loss"]) == 2.5 / 2 + 2
    losses = [float(problem.loss(params, key)) for key in jax.random.split(KEY, 2)]
    assert losses[0] != losses[1] and min(losses) > 2.5 / 2 + 2


def test_the_final_loss_is_over_the_whole_evaluation_set():
    problem = identity_problem(12, 4)
    run = stabjax.train(problem, optax.sgd(0.0), KEY, steps=3)
    assert float(run.final_loss) == 5.5
    x = jnp.arange(6.0)
    held_out = identity_problem(12, 4, test=(x, x))
    run = stabjax.train(held_out, optax.sgd(0.0), KEY, steps=3)
    assert float(run.final_loss) == 2.5
