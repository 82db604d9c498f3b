"""Modules with batch statistics, dropout and streams of their own, of each library."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from sklearn.datasets import load_digits

import stabjax
from stabjax.problems import supervised

KEY = jax.random.key(0)
RNG = np.random.default_rng(1)
X = (RNG.normal(size=(50, 3)) * [1, 2, 3] + [0, 1, 2]).astype(np.float32)
Y = np.arange(50, dtype=np.int32) % 3
CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels


class Nnx(nnx.Module):
    def __init__(self, rate, *, rngs):
        self.norm = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.output = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.output(self.drop(self.norm(x)))


class Linen(linen.Module):
    rate: float

    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = linen.Dropout(self.rate, deterministic=not train)(x)
        return linen.Dense(3)(x)


def equinox_module(rate):
    eqx = pytest.importorskip("equinox")

    class Equinox(eqx.Module):
        norm: eqx.nn.BatchNorm
        drop: eqx.nn.Dropout
        output: eqx.nn.Linear

        def __init__(self, key):
            self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch", momentum=0.9)
            self.drop = eqx.nn.Dropout(rate)
            self.output = eqx.nn.Linear(3, 3, key=key)

        def __call__(self, x, state, key=None):
            x, state = self.norm(x, state)
            return self.output(self.drop(x, key=key)), state

    return eqx.nn.make_with_state(Equinox)


def plain(rate):
    """Of plain JAX, with what the others have from their libraries."""

    def init(key):
        start = jax.random.normal(key, (3, 3)) / 3**0.5
        return {"w": start}, {"mean": jnp.zeros(3), "var": jnp.ones(3)}

    def apply(params, x, state, key, train):
        mean, var = state["mean"], state["var"]
        if train:
            mean, var = x.mean(0), x.var(0)
            state = {
                "mean": 0.9 * state["mean"] + 0.1 * mean,
                "var": 0.9 * state["var"] + 0.1 * var,
            }
            kept = jax.random.bernoulli(key, 1 - rate, x.shape)
            x = jnp.where(kept, x / (1 - rate), rate * mean[None])
        x = (x - mean[None]) / jnp.sqrt(var + 1e-5)[None]
        return x @ params["w"], state

    return init, apply


MODULES = {
    "nnx": lambda rate: lambda rngs: Nnx(rate, rngs=rngs),
    "linen": Linen,
    "equinox": equinox_module,
    "plain": plain,
}
of_each = pytest.mark.parametrize("library", MODULES)
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.mark.slow
@of_each
def test_training_uses_the_batch_and_evaluation_the_running_statistics(library):
    test = X[:9], Y[:9]
    problem = supervised(MODULES[library](0.0), X, Y, CROSS_ENTROPY, test=test)
    params, state = jax.jit(problem.init)(KEY)
    kernel = next(x for x in jax.tree.leaves(params) if x.shape == (3, 3))
    kernel = np.asarray(kernel).T if library == "equinox" else np.asarray(kernel)
    bias = np.asarray(params.output.bias) if library == "equinox" else 0.0

    def expected(x, y, mean, var):
        x = (x - mean) / np.sqrt(var + 1e-5)
        return np.mean(CROSS_ENTROPY(x @ kernel + bias, y))

    loss, after = jax.jit(problem.loss)(params, state, KEY)
    np.testing.assert_allclose(loss, expected(X, Y, X.mean(0), X.var(0)), rtol=1e-4)
    mean, var = 0.1 * X.mean(0), 0.1 * X.var(0) + 0.9
    if library == "equinox":  # which corrects for a start at zeros
        mean, var = mean / 0.1, var / 0.1
    results = jax.jit(problem.evaluate)(params, after, KEY)
    np.testing.assert_allclose(
        results["test_loss"], expected(*test, mean, var), rtol=1e-3
    )


@pytest.mark.slow
@of_each
def test_dropout_differs_by_key_in_training_alone(library):
    problem = supervised(MODULES[library](0.5), X, Y, CROSS_ENTROPY)
    given = jax.jit(problem.init)(KEY)
    keys = jax.random.split(KEY, 2)
    losses = [float(problem.loss(*given, key)[0]) for key in (*keys, keys[0])]
    assert losses[0] != losses[1] and losses[0] == losses[2]
    results = [float(problem.evaluate(*given, key)["train_loss"]) for key in keys]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "library",
    ["nnx", *(pytest.param(n, marks=pytest.mark.slow) for n in [*MODULES][1:])],
)
@pytest.mark.slow
def test_a_sweep_of_it_is_the_plain_loop(library):
    """Trial by trial, to rounding: state, epochs, augmentation and evaluation."""
    problem = supervised(
        MODULES[library](0.2),
        X,
        Y,
        CROSS_ENTROPY,
        batch_size=8,
        augment=lambda batch, key: (
            batch[0] + 0.1 * jax.random.normal(key, batch[0].shape),
            batch[1],
        ),
    )
    space = stabjax.grid(rate=[0.01, 0.1], seed=[4, 5])
    runs = stabjax.sweep(problem, optax_sgd, space, steps=15, progress=False)

    @jax.jit
    def step(params, state, rate, key, count):
        batch = problem.batch(count, jax.random.fold_in(key, 2**31 - 2))
        own = jax.random.fold_in(key, count)
        (_, state), grads = jax.value_and_grad(problem.loss, has_aux=True)(
            params, state, own, batch
        )
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), state

    for rate, seed in ((0.01, 4), (0.1, 5)):
        start, key = jax.random.split(jax.random.key(seed))
        params, state = jax.jit(problem.init)(start)
        for count in range(15):
            params, state = step(params, state, rate, key, count)
        expected = problem.evaluate(params, state, key)["train_loss"]
        found = runs.final_loss.sel(rate=rate, seed=seed)
        np.testing.assert_allclose(found, expected, rtol=2e-5)


class CNN(nnx.Module):
    def __init__(self, rngs, bias, dtype):
        given = {"rngs": rngs, "dtype": dtype, "param_dtype": dtype}
        self.conv = nnx.Conv(1, 4, (3, 3), strides=2, use_bias=bias, **given)
        self.norm = nnx.BatchNorm(4, momentum=0.9, **given)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.output = nnx.Linear(64, 10, **given)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.output(self.drop(x.reshape(len(x), -1)))


@pytest.mark.slow
# Flax keeps the running statistics in float32.
@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types")
@pytest.mark.parametrize(
    ("bias", "dtype", "loss_tolerance", "final_tolerance"),
    [
        # Batch normalization subtracts a bias, so the gradient of the bias is rounding
        # error, which Adam scales to steps of the size of the learning rate. The loss
        # of a batch does not depend on the bias. The running mean lags behind it, so
        # test losses in float32 would differ by 2 %.
        (False, np.float32, 1e-5, 1e-5),
        (True, np.float64, 1e-12, 1e-7),  # where the error is far below Adam's eps
    ],
)
def test_a_sweep_of_a_convolutional_network_is_the_plain_loop(
    bias, dtype, loss_tolerance, final_tolerance
):
    """Over three epochs with Adam, augmentation, dropout and batch normalization."""
    with jax.enable_x64(dtype is np.float64):
        images, labels = load_digits(return_X_y=True)
        images = (images / 16).astype(dtype).reshape(-1, 8, 8, 1)
        labels = labels.astype(np.int32)
        problem = supervised(
            lambda rngs: CNN(rngs, bias, dtype),
            images[:1680],
            labels[:1680],
            CROSS_ENTROPY,
            batch_size=48,
            test=(images[1680:], labels[1680:]),
            augment=lambda batch, key: (
                jnp.roll(batch[0], jax.random.randint(key, (), -1, 2), axis=2),
                batch[1],
            ),
        )
        rates = [0.003, 0.03, 0.1]
        space = stabjax.grid(rate=rates, seed=[4])
        given = {"epochs": 3, "record_every": 1, "progress": False}
        runs = stabjax.sweep(problem, optax_adam, space, **given)
        assert runs.loss.dtype == dtype and runs.sizes["step"] == 105
        for rate in rates:
            losses, final = adam_loop(problem, dtype(rate), 4, 105)
            found = runs.sel(rate=rate, seed=4)
            np.testing.assert_allclose(found.loss, losses, rtol=loss_tolerance)
            np.testing.assert_allclose(found.final_loss, final, rtol=final_tolerance)


def adam_loop(problem, rate, seed, steps):
    """Returns the losses of all steps and the final loss of a plain loop."""
    start, key = jax.random.split(jax.random.key(seed))
    params, state = jax.jit(problem.init)(start)
    optimizer = optax.adam(rate)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, state, opt_state, count):
        batch = problem.batch(count, jax.random.fold_in(key, 2**31 - 2))
        own = jax.random.fold_in(key, count)
        grad = jax.value_and_grad(problem.loss, has_aux=True)
        (loss, state), grads = grad(params, state, own, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, loss

    losses = []
    for count in range(steps):
        params, state, opt_state, loss = step(
            params, state, opt_state, jnp.asarray(count, jnp.int32)
        )
        losses.append(float(loss))
    return losses, jax.jit(problem.evaluate)(params, state, key)["test_loss"]


def optax_adam(rate):
    return optax.adam(rate)


def optax_sgd(rate):
    return optax.sgd(rate)


def test_a_module_may_switch_by_an_argument_and_have_streams_of_its_own():
    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.output = nnx.Linear(3, 3, rngs=rngs)
            self.rngs = rngs

        def __call__(self, x, deterministic):
            noise = (
                0.0 if deterministic else jax.random.normal(self.rngs.noise(), (1, 3))
            )
            return self.output(x + noise)

    problem = supervised(
        lambda rngs: Noisy(nnx.Rngs(rngs.params(), noise=1)), X, Y, CROSS_ENTROPY
    )
    params = problem.init(KEY)
    keys = jax.random.split(KEY, 2)
    assert problem.loss(params, keys[0]) != problem.loss(params, keys[1])
    values = [problem.evaluate(params, key)["train_loss"] for key in keys]
    assert values[0] == values[1]


@pytest.mark.slow
def test_equinox_without_state_is_called_with_one_example():
    eqx = pytest.importorskip("equinox")
    problem = supervised(
        lambda key: eqx.nn.MLP(3, 3, 8, 1, key=key), X, Y, CROSS_ENTROPY, batch_size=5
    )
    run = stabjax.train(problem, optax.sgd(0.1), KEY, steps=20)
    model = eqx.combine(run.params, eqx.nn.MLP(3, 3, 8, 1, key=KEY))
    expected = jnp.mean(CROSS_ENTROPY(jax.vmap(model)(X), Y))
    np.testing.assert_allclose(run.final_loss, expected, rtol=1e-5)
    chex.assert_trees_all_equal(run.state, ())
