"""Formulas, starts and noise of the bowls, valleys, slopes and products."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from stabjax import problems

KEY = jax.random.key(0)


def beale(w):
    x, y = w
    terms = [(1.5, 1), (2.25, 2), (2.625, 3)]
    return sum((t - x + x * y**i) ** 2 for t, i in terms)


def branin(w):
    x, y = w
    valley = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def deep_linear(w):
    return np.sum((w[2] @ w[1] @ w[0] - np.diag([2.0, 1.0])) ** 2) / 2


FORMULAS = [
    (problems.beale, {}, (2,), beale),
    (problems.branin, {}, (2,), branin),
    (problems.quartic, {}, (1,), lambda w: w[0] ** 4),
    (
        problems.cosh,
        {"l0": 3.0, "l1": 0.5},
        (1,),
        lambda w: 12 * (math.cosh(0.5 * w[0]) - 1),
    ),
    (
        problems.tied_product,
        {"target": 0.7, "depth": 5},
        (1,),
        lambda w: (w[0] ** 5 - 0.7) ** 2 / 2,
    ),
    (problems.deep_linear, {"dim": 2}, (3, 2, 2), deep_linear),
    (problems.heavy_tailed_quadratic, {"noise": 0.0}, (10,), lambda w: w @ w / 2),
]


def test_losses_equal_their_formulas():
    rng = np.random.default_rng(0)
    made = [(make(**given), rng.normal(size=s)) for make, given, s, _ in FORMULAS]
    losses = jax.jit(
        lambda: [p.loss(jnp.asarray(w, jnp.float32), KEY) for p, w in made]
    )()
    for loss, (_, w), (make, *_, formula) in zip(losses, made, FORMULAS, strict=True):
        np.testing.assert_allclose(loss, formula(w), rtol=2e-5, err_msg=make.__name__)


def test_cosh_is_exact_near_its_minimum_and_infinite_far_away():
    problem = problems.cosh()
    w = np.float32([1e-4, 0.9, 1.1, 88.9, -89.4, 90.0, -95.0])
    losses, slopes = jax.vmap(jax.value_and_grad(problem.loss), (0, None))(
        jnp.asarray(w)[:, None], KEY
    )
    exact = w.astype(np.float64)
    np.testing.assert_allclose(losses[:5], 2 * np.sinh(exact / 2)[:5] ** 2, rtol=1e-5)
    np.testing.assert_allclose(slopes[:5, 0], np.sinh(exact)[:5], rtol=1e-5)
    np.testing.assert_array_equal(losses[5:], np.inf)
    np.testing.assert_array_equal(slopes[5:, 0], [np.inf, -np.inf])


def test_slopes_are_smooth_as_documented():
    def slope_and_curvature(problem, w):
        first = jax.grad(lambda v: problem.loss(v[None], KEY))
        return first(w), jax.grad(first)(w)

    w = jnp.linspace(0, 9, 200)
    for problem, l0, l1 in [
        (problems.cosh(2.0, 0.7), 2.0, 0.7),
        (problems.quartic(), 16 / 0.3**2, 0.3),
        (problems.quartic(), 16 / 5.0**2, 5.0),
    ]:
        slope, curvature = jax.vmap(slope_and_curvature, (None, 0))(problem, w)
        assert np.all(curvature <= (l0 + l1 * np.abs(slope)) * (1 + 1e-5))
        tightest = np.min((l0 + l1 * np.abs(slope)) / curvature)
        assert tightest < 1.01  # no smaller constants hold


def test_spectra_are_as_documented():
    matrix = jax.hessian(problems.quadratic_deep(noise=0.0).loss)(jnp.zeros(100), KEY)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert np.all(eigenvalues[:90] < 1)
    assert np.all((eigenvalues[90:] > 30) & (eigenvalues[90:] < 60))
    assert eigenvalues.min() > -1e-5

    def hessian(seed):
        problem = problems.random_quadratic(seed, dim=50, examples=100)
        return jax.hessian(problem.loss)(jnp.zeros(50), KEY)

    matrices = jax.jit(jax.vmap(hessian))(jnp.arange(20))
    spectra = np.linalg.eigvalsh(matrices)
    edges = (1 - 0.5**0.5) ** 2, (1 + 0.5**0.5) ** 2
    np.testing.assert_allclose(spectra.mean(), 1, rtol=0.02)
    np.testing.assert_allclose(spectra[:, 0].mean(), edges[0], atol=0.03)
    np.testing.assert_allclose(spectra[:, -1].mean(), edges[1], rtol=0.06)
    assert len({float(spectrum[0]) for spectrum in spectra}) == 20


def test_noise_of_the_deep_quadratic_moves_its_center():
    problem = problems.quadratic_deep(0.3, dim=10)
    matrix = jax.hessian(problem.loss)(jnp.zeros(10), KEY)
    keys = jax.random.split(KEY, 4000)
    slopes = jax.jit(jax.vmap(jax.grad(problem.loss), (None, 0)))(jnp.zeros(10), keys)
    centres = np.linalg.solve(np.asarray(matrix, np.float64), -np.asarray(slopes).T)
    np.testing.assert_allclose(np.cov(centres), 0.09 * np.eye(10), atol=0.01)


def test_heavy_tail_is_that_of_student():
    keys = jax.random.split(KEY, 2000)

    def noise(tail):
        problem = problems.heavy_tailed_quadratic(tail)
        w = jnp.zeros(10)
        return jax.vmap(jax.grad(problem.loss), (None, 0))(w, keys).ravel()

    tails = np.array([1.0, 1.5, 4.0], np.float32)
    drawn = jax.jit(jax.vmap(noise))(jnp.asarray(tails))
    for tail, draws in zip(tails, np.asarray(drawn), strict=True):
        known = scipy.stats.t(df=float(tail))
        assert scipy.stats.kstest(draws, known.cdf).pvalue > 0.01
        far = known.ppf(0.999)  # 20 of 20,000 draws beyond it on each side
        assert 20 < np.sum(np.abs(draws) > far) < 70
        assert np.all(np.isfinite(draws))


def test_starts_are_where_the_docstrings_say():
    keys = jax.random.split(KEY, 1000)
    made = [
        problems.quartic(30.0, init_spread=0.2),
        problems.cosh(start=5.0, init_spread=0.0),
        problems.tied_product(2.0),
        problems.deep_linear(0.3, dim=3),
        problems.random_quadratic(init_scale=2.0),
        problems.beale(init_spread=0.5),
    ]
    starts = jax.jit(lambda: [jax.vmap(problem.init)(keys) for problem in made])()
    assert 24 <= starts[0].min() < 24.1
    assert 35.9 < starts[0].max() <= 36
    np.testing.assert_array_equal(starts[1], 5.0)
    assert 1.8 <= starts[2].min() < 1.81
    assert starts[3].shape == (1000, 3, 3, 3)
    np.testing.assert_allclose(starts[3].std(), 0.3 / 3**0.5, rtol=0.05)
    np.testing.assert_allclose(starts[4].std(), 2.0, rtol=0.05)
    np.testing.assert_allclose(starts[5].mean(axis=0), [1.0, 1.5], atol=0.05)
