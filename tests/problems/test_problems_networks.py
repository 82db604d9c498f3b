"""Problems made of Flax modules, and the digits."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from stabjax import problems

KEY = jax.random.key(0)


class Mlp(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List(
            [nnx.Linear(3, 3, rngs=rngs)]
        )  # one: draws compile slowly

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


X = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
Y = np.arange(20, dtype=np.int32) % 3
CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels
MODULES = {
    "nnx": Mlp,
    "linen": linen.Sequential([linen.Dense(3), jnp.tanh]),
}


def outputs_of(kind, params, x):
    """The module's outputs, by the ordinary way of its library."""
    if kind == "linen":
        return MODULES[kind].apply({"params": params}, x)
    model = Mlp(nnx.Rngs(7))
    nnx.update(model, params)
    return model(x)


@pytest.mark.parametrize("kind", MODULES)
def test_supervised_is_the_mean_loss_of_the_module(kind):
    problem = problems.supervised(MODULES[kind], X, Y, CROSS_ENTROPY)
    params = problem.init(KEY)
    expected = np.mean(CROSS_ENTROPY(outputs_of(kind, params, X), Y))
    np.testing.assert_allclose(problem.loss(params, KEY), expected, rtol=1e-6)
    assert dict(problem.metadata) == {"final_loss": "train_loss", "steps_per_epoch": 1}
    results = problem.evaluate(params, KEY)
    assert list(results) == ["train_loss"]
    np.testing.assert_allclose(results["train_loss"], expected, rtol=1e-6)


@pytest.mark.parametrize("kind", MODULES)
def test_supervised_trains_under_jit_and_vmap_over_keys(kind):
    problem = problems.supervised(MODULES[kind], X, Y, CROSS_ENTROPY, batch_size=5)
    keys = jax.random.split(KEY, 3)

    def step(key):
        params = problem.init(key)
        loss, slopes = jax.value_and_grad(problem.loss)(params, key)
        after = jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes)
        return params, loss, problem.evaluate(after, key)

    batched = jax.jit(jax.vmap(step))(keys)
    single = jax.jit(step)
    for i, key in enumerate(keys):
        one = jax.tree.map(lambda array, i=i: array[i], batched)
        chex.assert_trees_all_close(one, single(key), rtol=1e-5, atol=1e-6)
    assert len({float(loss) for loss in batched[1]}) == 3


def test_supervised_is_initialised_as_flax_does_it():
    params = problems.supervised(Mlp, X, Y, CROSS_ENTROPY).init(KEY)
    expected = nnx.state(Mlp(nnx.Rngs(KEY)), nnx.Param)
    chex.assert_trees_all_equal(params, expected)
    module = MODULES["linen"]
    params = problems.supervised(module, X, Y, CROSS_ENTROPY).init(KEY)
    expected = module.init(KEY, X)["params"]
    chex.assert_trees_all_equal(params, expected)


def test_minibatches_are_uniform_and_of_the_size_given():
    # The loss of example i is 2**i at the start: a sum tells who was drawn.
    n = 5
    problem = problems.supervised(
        linen.Dense(1, kernel_init=linen.initializers.zeros),
        jnp.ones((n, 1)),
        np.float32(2.0) ** np.arange(n, dtype=np.float32),
        lambda outputs, targets: outputs[:, 0] + targets,
        batch_size=1,
    )
    params = problem.init(KEY)
    keys = jax.random.split(KEY, 2000)
    drawn = np.log2(jax.vmap(problem.loss, (None, 0))(params, keys))
    counts = np.bincount(drawn.astype(int), minlength=n)
    assert counts.sum() == 2000
    np.testing.assert_allclose(counts, 400, atol=5 * np.sqrt(2000 * 0.2 * 0.8))

    def loss(outputs, targets):
        assert outputs.shape == (7, 1)
        assert targets.shape == (7,)
        return outputs

    pairs = problems.supervised(linen.Dense(1), X, Y, loss, batch_size=7)
    assert jax.eval_shape(pairs.loss, pairs.init(KEY), KEY).shape == ()


def test_evaluate_measures_training_and_test_data():
    problem = problems.supervised(
        MODULES["nnx"],
        X[:15],
        Y[:15],
        CROSS_ENTROPY,
        test=(X[15:], Y[15:]),
        metrics={"accuracy": lambda o, y: o.argmax(-1) == y},
    )
    params = problem.init(KEY)
    results = problem.evaluate(params, KEY)
    outputs = np.asarray(outputs_of("nnx", params, X))
    right = np.argmax(outputs, -1) == Y
    entropy = np.asarray(CROSS_ENTROPY(outputs, Y))
    assert {name: float(value) for name, value in results.items()} == pytest.approx(
        {
            "train_loss": entropy[:15].mean(),
            "train_accuracy": right[:15].mean(),
            "test_loss": entropy[15:].mean(),
            "test_accuracy": right[15:].mean(),
        }
    )


def test_data_may_be_traced_and_the_factory_called_in_a_trace():
    def start(scale):
        problem = problems.supervised(Mlp, X * scale, Y, CROSS_ENTROPY)
        return problem.loss(problem.init(KEY), KEY)

    scales = jnp.array([0.5, 2.0])
    traced = jax.jit(jax.vmap(start))(scales)
    np.testing.assert_allclose(traced, [start(scale) for scale in scales], rtol=1e-5)


def test_constants_of_a_module_and_a_keyword_for_rngs_are_fine():
    class Centred(nnx.Module):
        def __init__(self, *, rngs):
            self.layer = nnx.Linear(3, 3, rngs=rngs)
            self.mean = jnp.asarray(X.mean(0))

        def __call__(self, x):
            return self.layer(x - self.mean[None])

    problem = problems.supervised(Centred, X, Y, CROSS_ENTROPY)
    plain = problems.supervised(
        lambda rngs: nnx.Linear(3, 3, rngs=rngs), X - X.mean(0), Y, CROSS_ENTROPY
    )
    params, start = jax.jit(lambda: (problem.init(KEY), plain.init(KEY)))()
    assert list(params) == ["layer"]
    np.testing.assert_allclose(
        jax.jit(problem.loss)(params, KEY), plain.loss(start, KEY), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (
            linen.BatchNorm(use_running_average=False),
            ValueError,
            "such as train .* to disable its state during evaluation, got BatchNorm",
        ),
        (
            linen.Sequential([linen.Dense(3), linen.Dropout(0.1, deterministic=False)]),
            ValueError,
            "such as train .* to disable its random numbers during evaluation",
        ),
        (linen.Dense, TypeError, r"an instance of a Linen module, such as Dense\("),
        (nnx.Linear(3, 3, rngs=nnx.Rngs(0)), TypeError, "a function of nnx.Rngs"),
        (3, TypeError, "must be a Linen module, a function of nnx.Rngs .* got int"),
        (lambda rngs: 3, TypeError, "must return an NNX module, got ShapeDtypeStruct"),
    ],
)
def test_unsupported_modules_are_refused(module, error, message):
    with pytest.raises(error, match=message):
        problems.supervised(module, X, Y, CROSS_ENTROPY)


def test_unfit_data_and_functions_are_refused():
    with pytest.raises(
        ValueError, match=r"same number .* shapes \(20, 3\) and \(19,\)"
    ):
        problems.supervised(Mlp, X, Y[1:], CROSS_ENTROPY)
    with pytest.raises(ValueError, match=r"test inputs and targets .* and \(\)"):
        problems.supervised(Mlp, X, Y, CROSS_ENTROPY, test=(X, 3))
    with pytest.raises(TypeError, match=r"test must be a pair \(inputs, targets\)"):
        problems.supervised(Mlp, X, Y, CROSS_ENTROPY, test=X)
    with pytest.raises(TypeError, match="metrics must be a dict of functions, got 'a'"):
        problems.supervised(Mlp, X, Y, CROSS_ENTROPY, metrics="a")
    with pytest.raises(ValueError, match="not contain the name 'loss'"):
        problems.supervised(Mlp, X, Y, CROSS_ENTROPY, metrics={"loss": max})
    with pytest.raises(TypeError, match="loss must be a function, got 'mse'"):
        problems.supervised(Mlp, X, Y, "mse")
    with pytest.raises(TypeError, match="accuracy must be a function, got None"):
        problems.supervised(Mlp, X, Y, CROSS_ENTROPY, metrics={"accuracy": None})
    with pytest.raises(
        ValueError, match=r"batch_size must be an integer in \[1, 20\], got 21"
    ):
        problems.supervised(Mlp, X, Y, CROSS_ENTROPY, batch_size=21)


# Digits


def test_digits_start_as_scaled_normals():
    keys = jax.random.split(KEY, 8)
    problem = problems.digits_mlp(3.0, hidden=16)
    params = jax.jit(jax.vmap(problem.init))(keys)
    hidden, output = params["hidden"], params["output"]
    assert hidden["kernel"].shape == (8, 64, 16)
    assert output["kernel"].shape == (8, 16, 10)
    for layer, inputs in ((hidden, 64), (output, 16)):
        kernel = np.asarray(layer["kernel"][...])
        expected = 3 / math.sqrt(inputs)
        np.testing.assert_allclose(kernel.std(), expected, rtol=0.06)
        assert abs(kernel.mean()) < 0.1 * expected
        np.testing.assert_array_equal(layer["bias"][...], 0.0)


def test_digits_are_split_as_documented():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.float32(images / 16)
    problem = problems.digits_mlp()
    params = problem.init(KEY)
    layers = [
        [np.asarray(params[name][part][...]) for part in ("kernel", "bias")]
        for name in ("hidden", "output")
    ]
    hidden = np.tanh(images @ layers[0][0] + layers[0][1])
    logits = hidden @ layers[1][0] + layers[1][1]
    right = logits.argmax(-1) == labels
    test = np.arange(1797) % 4 == 3
    assert test.sum() == 449
    shares = np.bincount(labels[~test]) / np.sum(~test)
    guess = -np.mean(np.log(shares)[labels[~test]])
    assert problem.metadata["baseline"] == pytest.approx(guess)
    results = jax.jit(problem.evaluate)(params, KEY)
    assert results["test_accuracy"] == pytest.approx(right[test].mean())
    assert results["train_accuracy"] == pytest.approx(right[~test].mean())


def test_digits_train_to_their_target_and_leave_above_the_stable_rate():
    problem = problems.digits_mlp()
    steps = problem.metadata["steps"]

    def train(rate):
        def step(params, t):
            slopes = jax.grad(problem.loss)(params, jax.random.fold_in(KEY, t))
            after = jax.tree.map(lambda p, g: p - rate * g, params, slopes)
            squares = [jnp.sum(jnp.square(g)) for g in jax.tree.leaves(slopes)]
            return after, jnp.sqrt(sum(squares))

        params, norms = jax.lax.scan(step, problem.init(KEY), jnp.arange(steps))
        return problem.evaluate(params, KEY), norms[0]

    rates = problem.metadata["stable_rate"] * jnp.array([1 / 3, 1.0, 3.0])
    results, first_norms = jax.jit(jax.vmap(train))(rates)
    low, high = problem.metadata["max_norm"]
    assert 5 * low < first_norms[0] < high
    target = problem.metadata["target_loss"]
    np.testing.assert_array_equal(results["train_loss"] < target, [True, True, False])
    assert np.all(results["test_accuracy"][:2] > 0.95)
    assert results["test_accuracy"][2] < 0.5
    # It learns the training images better than the others.
    assert np.all(results["test_loss"][:2] > results["train_loss"][:2])


def test_bad_sizes_of_the_digits_are_named():
    with pytest.raises(TypeError, match="hidden must be an integer .* got 8.0"):
        problems.digits_mlp(hidden=8.0)
    with pytest.raises(
        ValueError, match=r"batch_size must be an integer in \[1, 1348\], got 1349"
    ):
        problems.digits_mlp(batch_size=1349)


COLUMN, ROW = X[:, :1], X[:, 0]
LINEAR = linen.Dense(1)


def squared(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)  # a scalar, which hides the broadcast


@pytest.mark.parametrize("loss", [optax.sigmoid_binary_cross_entropy, squared])
@pytest.mark.parametrize("batch_size", [None, 1, 4])
@jax.numpy_rank_promotion("allow")
def test_targets_that_broadcast_across_examples_are_an_error(loss, batch_size):
    problem = problems.supervised(LINEAR, X, ROW, loss, batch_size=batch_size)
    params = problem.init(KEY)
    message = (
        r"loss must compare .* \(\d+, 1\) .* \(\d+,\), .*Pass targets\[:, None\]\."
    )
    with pytest.raises(ValueError, match=message):
        problem.loss(params, KEY)
    with pytest.raises(ValueError, match=message):
        problem.evaluate(params, KEY)
    good = problems.supervised(LINEAR, X, COLUMN, loss, batch_size=batch_size)
    assert np.isfinite(good.loss(params, KEY))


@jax.numpy_rank_promotion("allow")
def test_metrics_that_broadcast_are_an_error_too():
    def accuracy(logits, labels):
        return logits.argmax(axis=-1) == labels.astype(int)

    def cross_entropy(logits, labels):
        return CROSS_ENTROPY(logits, labels.reshape(-1).astype(int))

    def made(labels):
        return problems.supervised(
            linen.Dense(3), X, labels, cross_entropy, metrics={"accuracy": accuracy}
        )

    problem = made(Y[:, None])
    params = problem.init(KEY)
    message = r"accuracy must compare .* \(1, 3\) .* \(1, 1\), .*Pass targets\[:, 0\]"
    with pytest.raises(ValueError, match=message):
        problem.evaluate(params, KEY)
    assert np.isfinite(made(Y).evaluate(params, KEY)["train_accuracy"])


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (lambda outputs, targets: (outputs[:, 0] - targets) ** 2, ROW),
        (lambda outputs, targets: outputs**2, Y),  # without targets
        (lambda outputs, targets: outputs.mean() - targets.mean(), ROW),
        (lambda outputs, targets: outputs[:, 0] - targets["y"], {"y": ROW}),
        (lambda outputs, targets: outputs @ targets.T, COLUMN),  # all pairs, on purpose
    ],
)
def test_losses_that_do_not_broadcast_are_accepted(loss, targets):
    problem = problems.supervised(LINEAR, X, targets, loss)
    assert np.isfinite(problem.loss(problem.init(KEY), KEY))
