"""Problems: their formulas, what their facts claim, and what may be traced."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from stabjax import problems
from stabjax.problems import Problem

KEY = jax.random.key(0)
ANALYTIC = {
    "quadratic": problems.quadratic,
    "ill_conditioned_quadratic": problems.ill_conditioned_quadratic,
    "rosenbrock": problems.rosenbrock,
    "cliff": problems.cliff,
    "deep_linear_chain": problems.deep_linear_chain,
}
# Every number of every problem, each with two values.
NUMBERS = {
    "quadratic": {
        "curvature": (0.5, 3.0),
        "noise": (0.1, 2.0),
        "init_scale": (0.1, 10.0),
    },
    "ill_conditioned_quadratic": {
        "condition_number": (1.0, 1000.0),
        "curvature": (0.5, 3.0),
        "noise": (0.1, 2.0),
        "init_scale": (0.1, 10.0),
    },
    "rosenbrock": {
        "steepness": (1.0, 50.0),
        "noise": (0.1, 2.0),
        "init_spread": (0.0, 0.5),
    },
    "cliff": {
        "steepness": (0.0, 30.0),
        "width": (0.01, 0.5),
        "noise": (0.1, 2.0),
        "init_scale": (0.1, 10.0),
    },
    "deep_linear_chain": {
        "init_scale": (0.5, 1.5),
        "target": (0.5, 2.0),
        "noise": (0.1, 2.0),
    },
}


def descend(problem, rate, steps, *, max_norm=math.inf, decay=False, seed=0):
    """Params of each step of clipped gradient descent, written out."""
    key = jax.random.key(seed)

    def step(w, t):
        g = jax.grad(problem.loss)(w, jax.random.fold_in(key, t))
        norm = jnp.sqrt(jnp.sum(jnp.square(g)))
        factor = jnp.minimum(1.0, max_norm / norm) if max_norm < math.inf else 1.0
        left = (1 + jnp.cos(jnp.pi * t.astype(w.dtype) / steps)) / 2 if decay else 1.0
        w = w - rate * left * factor * g
        return w, w

    return jax.lax.scan(step, problem.init(key), jnp.arange(steps))[1]


def norm_of(tree):
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def losses(problem, path):
    return jax.vmap(problem.loss, (0, None))(path, KEY)


# The protocol


def test_problem_holds_its_fields_and_a_read_only_copy_of_the_facts():
    def loss(w, key):
        return jnp.sum(w)

    facts = {"optimum": 1.0}
    problem = Problem(lambda key: jnp.ones(2), loss, facts=facts)
    facts["optimum"] = 2.0
    assert problem.loss is loss
    assert problem.evaluate is None
    assert problem.facts == {"optimum": 1.0}
    with pytest.raises(TypeError, match="does not support item assignment"):
        problem.facts["optimum"] = 3.0
    with pytest.raises(AttributeError):
        problem.loss = None
    assert dict(Problem(problem.init, loss).facts) == {}


def test_problem_is_a_static_argument_of_jit():
    problem = problems.quadratic()
    other = problem._replace(facts={"minimizer": jnp.ones(2)})
    assert problem == other
    assert hash(problem) == hash(other)
    assert problem != problems.quadratic()
    start = jax.jit(lambda p, key: p.init(key), static_argnums=0)
    np.testing.assert_array_equal(start(problem, KEY), problem.init(KEY))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, abs), "init must be a function, got None"),
        ((abs, 3.0), "loss must be a function, got 3.0"),
        ((abs, abs, {"test": 1}), "evaluate must be a function, got {'test': 1}"),
        ((abs, abs, None, 5), "facts must be a mapping such as a dict, got 5"),
    ],
)
def test_problem_says_which_field_is_wrong(arguments, message):
    with pytest.raises(TypeError, match=message):
        Problem(*arguments)


# Formulas


def test_losses_equal_their_formulas():
    rng = np.random.default_rng(0)
    for _ in range(5):
        w, w2 = rng.normal(size=6), rng.normal(size=2)
        x, y = w2
        h = 7.0 * np.logspace(0, -2, 6)
        d = 0.3
        wall = 20 * (np.hypot(max(x, 0), d) - d)
        expected = [
            (problems.quadratic(), w2, (w2**2).sum()),
            (problems.quadratic(3.0, dim=6), w, 1.5 * (w**2).sum()),
            (
                problems.ill_conditioned_quadratic(100.0, 7.0, dim=6),
                w,
                (h * w**2).sum() / 2,
            ),
            (problems.rosenbrock(9.0), w2, (1 - x) ** 2 + 9 * (y - x**2) ** 2),
            (
                problems.cliff(20.0, d),
                w2,
                np.hypot(x, d) - d + wall + np.hypot(y, 1) - 1,
            ),
            (
                problems.deep_linear_chain(target=0.7, depth=6),
                w,
                (w.prod() - 0.7) ** 2 / 2,
            ),
        ]
        for problem, at, value in expected:
            got = problem.loss(jnp.asarray(at, jnp.float32), KEY)
            np.testing.assert_allclose(got, value, rtol=1e-5)


def test_starts_are_where_the_docstrings_say():
    keys = jax.random.split(KEY, 1000)

    def starts(problem):
        return np.asarray(jax.jit(jax.vmap(problem.init))(keys))

    def check_range(values, low, high):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high

    w = starts(problems.quadratic())
    check_range(w[:, 0], 0.5, 5)
    check_range(w[:, 1], -5, -0.5)
    assert abs(np.corrcoef(w.T)[0, 1]) < 0.1
    w = starts(problems.ill_conditioned_quadratic(init_scale=2.0, dim=3))
    np.testing.assert_array_equal(np.sign(w), np.tile([1.0, -1.0, 1.0], (1000, 1)))
    w = starts(problems.rosenbrock(init_spread=0.2)) - np.float32([-1.2, 1])
    check_range(w, -0.2001, 0.2001)
    w = starts(problems.cliff())
    check_range(w[:, 0], -4, -2)
    check_range(w[:, 1], 2, 4)
    w = starts(problems.deep_linear_chain(2.0, depth=3))
    check_range(w, 1.8, 2.2)


# Facts


@pytest.mark.parametrize("name", ANALYTIC)
def test_optimum_is_the_loss_at_a_stationary_point_that_curves_up(name):
    problem = ANALYTIC[name]()
    w = problem.facts["minimizer"]
    assert problem.facts["name"] == name
    assert jax.eval_shape(problem.init, KEY).shape == w.shape
    np.testing.assert_allclose(
        problem.loss(w, KEY), problem.facts["optimum"], atol=1e-12
    )
    np.testing.assert_allclose(jax.grad(problem.loss)(w, KEY), 0.0, atol=1e-5)
    curvatures = np.linalg.eigvalsh(jax.jit(jax.hessian(problem.loss))(w, KEY))
    assert curvatures[-1] > 0
    assert curvatures[0] > -1e-5 * curvatures[-1]


@pytest.mark.parametrize(
    ("problem", "rtol"),
    [
        (problems.quadratic(3.0), 1e-6),
        (problems.ill_conditioned_quadratic(30.0, 3.0), 1e-6),
        (problems.rosenbrock(), 1e-6),
        (problems.rosenbrock(2.0), 1e-6),
        (problems.deep_linear_chain(0.5, 1.7), 1e-5),
    ],
)
def test_stable_rate_is_two_over_the_largest_curvature(problem, rtol):
    hessian = jax.jit(jax.hessian(problem.loss))(problem.facts["minimizer"], KEY)
    largest = np.linalg.eigvalsh(hessian)[-1]
    np.testing.assert_allclose(problem.facts["stable_rate"], 2 / largest, rtol=rtol)


@pytest.mark.parametrize("name", ["quadratic", "ill_conditioned_quadratic"])
def test_quadratics_diverge_exactly_above_the_stable_rate(name):
    problem = ANALYTIC[name](curvature=3.0)
    first = problem.loss(problem.init(KEY), KEY)
    for factor, diverges in ((0.98, False), (1.02, True)):
        path = descend(problem, factor * problem.facts["stable_rate"], 200)
        assert bool(losses(problem, path)[-1] > first) is diverges


@pytest.mark.parametrize(
    ("name", "fraction"),
    # The fraction of the stable rate, at which the target is reached in time. On the
    # cliff the rates that are safe without clipping are too slow for that.
    [
        ("quadratic", 0.1),
        ("ill_conditioned_quadratic", 0.5),
        ("rosenbrock", 0.9),
        ("deep_linear_chain", 1.0),
    ],
)
def test_target_is_reached_in_the_steps_given_at_a_stable_rate(name, fraction):
    problem = ANALYTIC[name]()
    rate = fraction * problem.facts["stable_rate"]

    def run(seed):
        path = losses(problem, descend(problem, rate, problem.facts["steps"]))
        return problem.loss(problem.init(jax.random.key(seed)), KEY), path[-1]

    first, last = jax.jit(jax.vmap(run))(jnp.arange(8))
    target = problem.facts["target_loss"]
    assert np.all(first > target)
    assert np.all(last <= target)


@pytest.mark.parametrize("factory", [*ANALYTIC.values(), problems.digits_mlp])
def test_ranges_surround_the_stable_rate_and_the_first_gradient(factory):
    problem = factory()
    facts = problem.facts
    low, high = facts["peak_value"]
    assert low == pytest.approx(facts["stable_rate"] / 100)
    assert high == pytest.approx(facts["stable_rate"] * 100)
    low, high = facts["max_norm"]

    def first_norm(key):
        return norm_of(jax.grad(problem.loss)(problem.init(key), key))

    norms = jax.jit(jax.vmap(first_norm))(jax.random.split(KEY, 16))
    assert np.all(5 * low < norms)
    assert np.all(norms < high)
    assert facts["steps"] >= 1


# What each of them is for


def test_noise_is_in_the_gradient_and_not_in_the_loss():
    w = jnp.array([1.0, -2.0])
    noisy, plain = problems.quadratic(noise=0.5), problems.quadratic()
    keys = jax.random.split(KEY, 4000)
    slopes = jax.jit(jax.vmap(jax.value_and_grad(noisy.loss), (None, 0)))
    values, gradients = slopes(w, keys)
    np.testing.assert_array_equal(values, plain.loss(w, KEY))
    mean, spread = np.mean(gradients, axis=0), np.std(gradients, axis=0)
    np.testing.assert_allclose(mean, 2 * w, atol=5 * 0.5 / np.sqrt(4000))
    np.testing.assert_allclose(spread, 0.5, rtol=0.05)
    hessian = jax.hessian(noisy.loss)(w, KEY)
    np.testing.assert_allclose(hessian, 2 * np.eye(2))


def test_noisy_quadratic_settles_where_its_formula_says():
    h, sigma, rate, dim = 2.0, 0.7, 0.3, 5
    problem = problems.quadratic(h, sigma, dim=dim)

    def late(seed):
        return losses(problem, descend(problem, rate, 300, seed=seed)[100:]).mean()

    measured = jax.jit(jax.vmap(late))(jnp.arange(64)).mean()
    expected = dim * rate * sigma**2 / (4 - 2 * rate * h)
    np.testing.assert_allclose(measured, expected, rtol=0.03)


def test_final_loss_can_be_differentiated_by_the_noise_and_the_curvature():
    def final(curvature, noise):
        path = descend(problems.quadratic(curvature, noise), 0.1, 20)
        return problems.quadratic(curvature).loss(path[-1], KEY)

    for argnum in (0, 1):
        at, shift = [2.0, 0.5], 1e-2
        slope = jax.grad(final, argnum)(*at)
        up, down = list(at), list(at)
        up[argnum] += shift
        down[argnum] -= shift
        difference = (final(*up) - final(*down)) / (2 * shift)
        np.testing.assert_allclose(slope, difference, rtol=0.02)


def test_cliff_catapults_descent_unless_it_is_slow_or_clipped():
    problem = problems.cliff()
    wall, width = 1000.0, problem.facts["stable_rate"]

    slow = descend(problem, 0.9 * width, 1000)
    assert np.all(slow[:, 0] <= 0)  # never in the wall, at any time
    assert losses(problem, slow)[-1] < 1e-3

    target, steps = problem.facts["target_loss"], problem.facts["steps"]
    assert losses(problem, slow)[steps] > target  # but it is too slow
    rate = 0.1

    @jax.jit
    @jax.vmap
    def compare(seed):
        run = {
            "neither": {},
            "schedule": {"decay": True},
            "both": {"decay": True, "max_norm": 1.0},
        }
        paths = {
            name: descend(problem, rate, steps, seed=seed, **arguments)
            for name, arguments in run.items()
        }
        return {
            name: (jnp.max(path[:-1, 0] - path[1:, 0]), problem.loss(path[-1], KEY))
            for name, path in paths.items()
        }

    runs = compare(jnp.arange(16))
    for name in ("neither", "schedule"):
        thrown_back, final = runs[name]
        assert np.median(thrown_back) > 0.5 * rate * wall
        assert np.all(final > target)
    thrown_back, final = runs["both"]
    assert np.all(thrown_back < 1.001 * rate)
    assert np.all(final < target)


def test_chain_explodes_from_large_weights_and_waits_at_small_ones():
    def norm(scale):
        problem = problems.deep_linear_chain(scale)
        w = jnp.full(10, scale)
        return norm_of(jax.grad(problem.loss)(w, KEY))

    np.testing.assert_allclose(norm(2.0), math.sqrt(10) * 1023 * 512, rtol=1e-5)
    np.testing.assert_allclose(
        norm(0.5), math.sqrt(10) * (1 - 0.5**10) * 0.5**9, rtol=1e-5
    )
    # From 1.3: the stable rate gets there, a hundred times that is lost.
    problem = problems.deep_linear_chain()
    rate = problem.facts["peak_value"][1]
    path = losses(problem, descend(problem, rate, 200))
    assert not path[-1] < 0.1
    clipped = descend(problem, rate, 200, max_norm=1.0)
    assert losses(problem, clipped)[-1] < problem.facts["target_loss"]


def test_chain_is_least_curved_at_equal_weights():
    problem = problems.deep_linear_chain(depth=4)
    hessian_of = jax.jit(jax.hessian(problem.loss))
    for w in ([1.0, 1.0, 1.0, 1.0], [2.0, 0.5, 1.0, 1.0], [4.0, 2.0, 0.5, 0.25]):
        hessian = hessian_of(jnp.array(w), KEY)
        sharpness = np.linalg.eigvalsh(hessian)[-1]
        np.testing.assert_allclose(sharpness, sum(1 / v**2 for v in w), rtol=1e-5)
        assert sharpness >= 4 - 1e-5


# Tracing and dtypes


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_can_be_traced(name):
    signature = inspect.signature(ANALYTIC[name]).parameters.values()
    numbers = [p.name for p in signature if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(NUMBERS[name]) == numbers

    def outcome(arguments):
        problem = ANALYTIC[name](**arguments)
        w = problem.init(KEY)
        value, gradient = jax.value_and_grad(problem.loss)(w, KEY)
        facts = {k: v for k, v in problem.facts.items() if k != "name"}
        return w, value, gradient, facts

    arrays = {k: jnp.array(v, jnp.float32) for k, v in NUMBERS[name].items()}
    traced = jax.jit(jax.vmap(outcome))(arrays)
    for i in range(2):
        expected = outcome({k: v[i] for k, v in NUMBERS[name].items()})
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-4, atol=1e-6),
            traced,
            expected,
        )


def test_concrete_arrays_and_integers_are_numbers_too():
    for value in (3, np.float64(3), np.int32(3), np.array(3.0), jnp.array(3)):
        problem = problems.quadratic(curvature=value)
        assert problem.facts["stable_rate"] == 2 / 3
        assert problem.loss(jnp.ones(2), KEY) == 3.0
    traced = jax.jit(lambda c: problems.quadratic(c).loss(jnp.ones(2), KEY))
    assert traced(jnp.array(3)) == 3.0


@pytest.mark.parametrize("name", ANALYTIC)
def test_loss_keeps_the_dtype_of_the_weights(name):
    problem = ANALYTIC[name](noise=0.1)
    w = problem.init(KEY).astype(jnp.bfloat16)
    value, gradient = jax.eval_shape(jax.value_and_grad(problem.loss), w, KEY)
    assert value.dtype == gradient.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: problems.quadratic(-1.0),
            ValueError,
            "curvature must be finite and above 0, got -1",
        ),
        (
            lambda: problems.quadratic(math.nan),
            ValueError,
            "curvature must be finite and above 0, got nan",
        ),
        (
            lambda: problems.quadratic("2"),
            TypeError,
            "curvature must be a single number, got '2'",
        ),
        (
            lambda: problems.rosenbrock(None),
            TypeError,
            "steepness must be a single number, got None",
        ),
        (
            lambda: problems.cliff(width=jnp.ones(3)),
            TypeError,
            "width must be a single number",
        ),
        (
            lambda: problems.cliff(noise=-0.1),
            ValueError,
            "noise must be finite and at least 0, got -0.1",
        ),
        (
            lambda: problems.ill_conditioned_quadratic(0.5),
            ValueError,
            "condition_number must be finite and at least 1, got 0.5",
        ),
        (
            lambda: jax.vmap(lambda d: problems.deep_linear_chain(depth=d).init(KEY))(
                jnp.arange(3)
            ),
            TypeError,
            r"depth fixes the shape of an array and must be a Python int",
        ),
        (
            lambda: jax.vmap(lambda c: problems.quadratic(c).init(KEY))(
                jnp.ones((2, 3))
            ),
            TypeError,
            "curvature must be a single number",
        ),
        (
            lambda: problems.quadratic(dim=0),
            ValueError,
            "dim must be at least 1, got 0",
        ),
        (
            lambda: problems.digits_mlp(hidden=8.0),
            TypeError,
            r"hidden .* must be a Python int \(stabjax.static\(...\) in a sweep\)",
        ),
        (
            lambda: problems.digits_mlp(batch_size=1349),
            ValueError,
            "batch_size must be from 1 to 1348, got 1349",
        ),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


# Flax modules


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
    assert dict(problem.facts) == {}
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
    for i, key in enumerate(keys):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6),
            batched,
            step(key),
        )
    assert len({float(loss) for loss in batched[1]}) == 3


def test_supervised_is_initialised_as_flax_does_it():
    params = problems.supervised(Mlp, X, Y, CROSS_ENTROPY).init(KEY)
    expected = nnx.state(Mlp(nnx.Rngs(KEY)), nnx.Param)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    module = MODULES["linen"]
    params = problems.supervised(module, X, Y, CROSS_ENTROPY).init(KEY)
    expected = module.init(KEY, X)["params"]
    jax.tree.map(np.testing.assert_array_equal, params, expected)


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


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (
            lambda rngs: nnx.Sequential(
                nnx.Linear(3, 3, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)
            ),
            ValueError,
            "no state but its params .* got RngCount, RngKey",
        ),
        (
            lambda rngs: nnx.BatchNorm(3, rngs=rngs),
            ValueError,
            "no state but its params .* got BatchStat",
        ),
        (
            linen.BatchNorm(use_running_average=False),
            ValueError,
            "no state but its params .* got batch_stats",
        ),
        (
            linen.Sequential([linen.Dense(3), linen.Dropout(0.1, deterministic=False)]),
            ValueError,
            "no state but its params .* got random numbers",
        ),
        (linen.Dense, TypeError, r"an instance of a Linen module, such as Dense\("),
        (nnx.Linear(3, 3, rngs=nnx.Rngs(0)), TypeError, "a function of nnx.Rngs"),
        (3, TypeError, "must be a Linen module or a function of nnx.Rngs .* got int"),
        (lambda rngs: 3, TypeError, "must make an NNX module"),
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
    with pytest.raises(TypeError, match="loss must be a function, got 'mse'"):
        problems.supervised(Mlp, X, Y, "mse")
    with pytest.raises(TypeError, match="accuracy must be a function, got None"):
        problems.supervised(Mlp, X, Y, CROSS_ENTROPY, metrics={"accuracy": None})
    with pytest.raises(ValueError, match="batch_size must be from 1 to 20, got 21"):
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
    results = jax.jit(problem.evaluate)(params, KEY)
    assert results["test_accuracy"] == pytest.approx(right[test].mean())
    assert results["train_accuracy"] == pytest.approx(right[~test].mean())


def test_digits_train_to_their_target_and_leave_above_the_stable_rate():
    problem = problems.digits_mlp()
    steps = problem.facts["steps"]

    def train(rate):
        def step(params, t):
            slopes = jax.grad(problem.loss)(params, jax.random.fold_in(KEY, t))
            return jax.tree.map(lambda p, g: p - rate * g, params, slopes), None

        params = jax.lax.scan(step, problem.init(KEY), jnp.arange(steps))[0]
        return problem.evaluate(params, KEY)

    rates = problem.facts["stable_rate"] * jnp.array([1 / 3, 1.0, 3.0])
    results = jax.jit(jax.vmap(train))(rates)
    target = problem.facts["target_loss"]
    np.testing.assert_array_equal(results["train_loss"] < target, [True, True, False])
    assert np.all(results["test_accuracy"][:2] > 0.95)
    assert results["test_accuracy"][2] < 0.5
    # It learns the training images better than the others.
    assert np.all(results["test_loss"][:2] > results["train_loss"][:2])
