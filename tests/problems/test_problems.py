"""Problems: their formulas, and what their metadata and docstrings state."""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stabjax import problems
from stabjax.problems import Problem

KEY = jax.random.key(0)
ANALYTIC = {
    "quadratic": problems.quadratic,
    "ill_conditioned_quadratic": problems.ill_conditioned_quadratic,
    "rosenbrock": problems.rosenbrock,
    "cliff": problems.cliff,
    "deep_linear_chain": problems.deep_linear_chain,
    "tied_product": problems.tied_product,
    "deep_linear": problems.deep_linear,
    "quadratic_deep": problems.quadratic_deep,
    "random_quadratic": problems.random_quadratic,
    "heavy_tailed_quadratic": problems.heavy_tailed_quadratic,
    "beale": problems.beale,
    "branin": problems.branin,
    "quartic": problems.quartic,
    "cosh": problems.cosh,
    "single_unit_rnn": problems.single_unit_rnn,
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


def is_problem(value):
    return isinstance(value, Problem)


def norm_of(tree):
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def losses(problem, path):
    return jax.vmap(problem.loss, (0, None))(path, KEY)


# The protocol


def test_problem_holds_its_fields_and_a_read_only_copy_of_the_metadata():
    def loss(w, key):
        return jnp.sum(w)

    metadata = {"optimum": 1.0}
    problem = Problem(lambda key: jnp.ones(2), loss, metadata=metadata)
    metadata["optimum"] = 2.0
    assert problem.loss is loss
    assert problem.evaluate is None
    assert problem.metadata == {"optimum": 1.0}
    with pytest.raises(TypeError, match="does not support item assignment"):
        problem.metadata["optimum"] = 3.0
    with pytest.raises(AttributeError):
        problem.loss = None
    assert dict(Problem(problem.init, loss).metadata) == {}


def test_problem_is_a_static_argument_of_jit():
    problem = problems.quadratic()
    other = replace(problem, metadata={"minimizer": jnp.ones(2)})
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
        ((abs, abs, None, 5), "metadata must be a mapping such as a dict, got 5"),
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


# Metadata


@functools.cache
def at_the_minimizers():
    """Loss, gradient and curvatures there, of all problems without their noise."""

    def of(problem):
        w = problem.metadata["minimizer"]

        def flat(v):
            return problem.loss(v.reshape(w.shape), KEY)

        return flat(w.ravel()), jax.grad(flat)(w.ravel()), jax.hessian(flat)(w.ravel())

    quiet = {name: make(noise=0.0) for name, make in ANALYTIC.items()}
    return jax.jit(lambda: jax.tree.map(of, quiet, is_leaf=is_problem))()


@pytest.mark.slow
@pytest.mark.parametrize("name", ANALYTIC)
def test_optimum_is_the_loss_at_a_stationary_point_that_curves_up(name):
    problem = ANALYTIC[name]()
    w = problem.metadata["minimizer"]
    value, slope, hessian = at_the_minimizers()[name]
    assert problem.metadata["name"] == name
    assert jax.eval_shape(problem.init, KEY).shape == w.shape
    np.testing.assert_allclose(
        value, problem.metadata["optimum"], rtol=1e-6, atol=1e-12
    )
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)
    curvatures = np.linalg.eigvalsh(hessian)
    if name != "quartic":  # which is flat at its minimum
        assert curvatures[-1] > 0
    assert curvatures[0] >= -1e-5 * curvatures[-1]


STABLE = {
    "quadratic": problems.quadratic(3.0),
    "ill_conditioned_quadratic": problems.ill_conditioned_quadratic(30.0, 3.0),
    "rosenbrock": problems.rosenbrock(),
    "gentle rosenbrock": problems.rosenbrock(2.0),
    "deep_linear_chain": problems.deep_linear_chain(0.5, 1.7),
    "tied_product": problems.tied_product(0.5, 1.7),
    "quadratic_deep": problems.quadratic_deep(noise=0.0),
    "random_quadratic": problems.random_quadratic(7),
    "heavy_tailed_quadratic": problems.heavy_tailed_quadratic(noise=0.0),
    "beale": problems.beale(),
    "branin": problems.branin(),
    "deep_linear": problems.deep_linear(depth=2),
}


def test_stable_rate_is_two_over_the_largest_curvature():
    def of(problem):
        w = problem.metadata["minimizer"]
        loss = jax.hessian(lambda v: problem.loss(v.reshape(w.shape), KEY))
        return loss(w.ravel())

    hessians = jax.jit(lambda: jax.tree.map(of, STABLE, is_leaf=is_problem))()
    for name, hessian in hessians.items():
        expected = 2 / np.linalg.eigvalsh(hessian)[-1]
        rate = STABLE[name].metadata["stable_rate"]
        np.testing.assert_allclose(rate, expected, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["quadratic", "ill_conditioned_quadratic"])
def test_quadratics_diverge_exactly_above_the_stable_rate(name):
    problem = ANALYTIC[name](curvature=3.0)
    first = problem.loss(problem.init(KEY), KEY)
    for factor, diverges in ((0.98, False), (1.02, True)):
        path = descend(problem, factor * problem.metadata["stable_rate"], 200)
        assert bool(losses(problem, path)[-1] > first) is diverges


# The fraction of the stable rate at which the target is reached in time. Near walls, on
# the cliff and on the slopes, rates that are safe without clipping are too slow.
FRACTIONS = {
    "quadratic": 0.1,
    "ill_conditioned_quadratic": 0.5,
    "rosenbrock": 0.9,
    "deep_linear_chain": 1.0,
    "tied_product": 1.0,
    "deep_linear": 0.5,
    "quadratic_deep": 0.2,
    "random_quadratic": 0.3,
    "beale": 0.2,
    "branin": 0.2,
}


@functools.cache
def descents():
    """First and last losses at these rates, from eight starts."""

    def of(name):
        problem = ANALYTIC[name]()
        rate = FRACTIONS[name] * problem.metadata["stable_rate"]

        def run(seed):
            path = descend(problem, rate, problem.metadata["steps"], seed=seed)
            start = problem.init(jax.random.key(seed))
            return problem.loss(start, KEY), problem.loss(path[-1], KEY)

        return jax.vmap(run)(jnp.arange(8))

    return jax.jit(lambda: {name: of(name) for name in FRACTIONS})()


@pytest.mark.parametrize("name", FRACTIONS)
def test_target_is_reached_in_the_steps_given_at_a_stable_rate(name):
    first, last = descents()[name]
    target = ANALYTIC[name]().metadata["target_loss"]
    assert np.all(first > target)
    assert np.all(last <= target)


@functools.cache
def first_norms():
    def of(problem):
        def norm(key):
            return norm_of(jax.grad(problem.loss)(problem.init(key), key))

        return jax.vmap(norm)(jax.random.split(KEY, 16))

    made = {name: make() for name, make in ANALYTIC.items()}
    return jax.jit(lambda: jax.tree.map(of, made, is_leaf=is_problem))()


@pytest.mark.parametrize("name", ANALYTIC)
def test_ranges_surround_the_stable_rate_and_the_first_gradient(name):
    metadata = ANALYTIC[name]().metadata
    if "stable_rate" in metadata:
        low, high = metadata["peak_value"]
        assert low == pytest.approx(metadata["stable_rate"] / 100)
        assert high >= metadata["stable_rate"] * 99.99
    optimizer = metadata["optimizer"](0.5)
    updates, _ = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
    np.testing.assert_array_equal(updates, -0.5)
    low, high = metadata["max_norm"]
    assert np.all(5 * low < first_norms()[name])
    assert np.all(first_norms()[name] < high)


def test_ranges_surround_both_in_problems_of_other_sizes_too():
    for problem in (
        problems.quartic(0.5),
        problems.cosh(start=0.5),
        problems.quadratic(dim=2000),
    ):
        metadata = problem.metadata
        assert metadata["peak_value"][1] >= 99.99 * metadata["stable_rate"]
        norm = norm_of(jax.grad(problem.loss)(problem.init(KEY), KEY))
        assert 5 * metadata["max_norm"][0] < norm < metadata["max_norm"][1]


# What each problem shows


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

    shift = jnp.array([1e-2, 0.0]), jnp.array([0.0, 1e-2])
    slopes = jax.jit(jax.grad(final, (0, 1)))(2.0, 0.5)
    up, down = (
        jax.jit(jax.vmap(final))(2.0 + sign * shift[0], 0.5 + sign * shift[1])
        for sign in (1, -1)
    )
    np.testing.assert_allclose(slopes, (up - down) / 2e-2, rtol=0.02)


def test_cliff_catapults_descent_unless_it_is_slow_or_clipped():
    problem = problems.cliff()
    wall, width = 1000.0, problem.metadata["stable_rate"]

    slow = descend(problem, 0.9 * width, 1000)
    assert np.all(slow[:, 0] <= 0)  # never in the wall, at any time
    assert losses(problem, slow)[-1] < 1e-3

    target, steps = problem.metadata["target_loss"], problem.metadata["steps"]
    assert losses(problem, slow)[steps] > target  # it is too slow
    rate = 0.1

    @jax.jit
    @jax.vmap
    def compare(seed):
        run = {
            "baseline": {},
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
    for name in ("baseline", "schedule"):
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
    # From 1.3, the stable rate converges, and a hundred times that rate diverges.
    problem = problems.deep_linear_chain()
    rate = problem.metadata["peak_value"][1]
    path = losses(problem, descend(problem, rate, 200))
    assert not path[-1] < 0.1
    clipped = descend(problem, rate, 200, max_norm=1.0)
    assert losses(problem, clipped)[-1] < problem.metadata["target_loss"]


def test_chain_is_least_curved_at_equal_weights():
    problem = problems.deep_linear_chain(depth=4)
    hessian_of = jax.jit(jax.hessian(problem.loss))
    for w in ([1.0, 1.0, 1.0, 1.0], [2.0, 0.5, 1.0, 1.0], [4.0, 2.0, 0.5, 0.25]):
        hessian = hessian_of(jnp.array(w), KEY)
        sharpness = np.linalg.eigvalsh(hessian)[-1]
        np.testing.assert_allclose(sharpness, sum(1 / v**2 for v in w), rtol=1e-5)
        assert sharpness >= 4 - 1e-5
