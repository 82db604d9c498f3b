"""Derivatives through clipping, as meta-gradients take them."""

import functools

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
from models import random_tree
from models import updates_of as update

import stabjax

MAKERS = {name: getattr(stabjax, name) for name in models.RULES}


@pytest.mark.parametrize("name", models.BY_NORM)
def test_derivative_at_a_zero_gradient_is_the_identitys(name):
    make = MAKERS[name]
    params = {"x": jnp.array([[1.0, 0.0], [2.0, 0.0]]), "y": jnp.zeros(())}
    zeros = jax.tree.map(jnp.zeros_like, params)
    flat, unravel = jax.flatten_util.ravel_pytree(zeros)

    @jax.jit
    def jacobians(limit):
        def clipped(flat):
            tree = update(make(limit), unravel(flat), params)
            return jax.flatten_util.ravel_pytree(tree)[0]

        return jax.jacrev(clipped)(flat), jax.jacfwd(clipped)(flat)

    for limit in (1.0, 1e30, np.inf):
        for jacobian in jacobians(limit):
            np.testing.assert_array_equal(jacobian, np.eye(5))


@pytest.mark.slow
def test_derivatives_agree_with_finite_differences():
    """Of every rule, by updates, parameters and threshold, in both modes."""

    @jax.jit
    def slopes(point, direction, weights, h=1e-6):
        def along(s, make):
            g, w, c = jax.tree.map(lambda x, d: x + s * d, point, direction)
            weighted = jax.tree.map(jnp.vdot, update(make(c), g, w), weights)
            return sum(jax.tree.leaves(weighted))

        found = []
        for make in MAKERS.values():
            f = functools.partial(along, make=make)
            central = (f(h) - f(-h)) / (2 * h)
            found.append([central, jax.jvp(f, (0.0,), (1.0,))[1], jax.grad(f)(0.0)])
        return found

    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        shapes = {"w": (3, 2), "b": (2,)}
        point, direction = (
            (
                {name: jnp.asarray(rng.normal(size=s)) for name, s in shapes.items()},
                {name: jnp.asarray(rng.normal(size=s)) for name, s in shapes.items()},
                jnp.asarray(rng.uniform(0.3, 0.4)),
            )
            for _ in range(2)
        )
        for central, forward, reverse in slopes(point, direction, direction[0]):
            np.testing.assert_allclose([forward, reverse], [central] * 2, rtol=1e-7)
            assert abs(central) > 0.01


@pytest.mark.parametrize("magnitude", (1, 1e15, 1e25, 1e37, 1e-15, 1e-25, 1e-36))
def test_derivative_while_clipping_at_any_magnitude(magnitude):
    """The derivative of c g / |g| is (I - u u^T) c / |g|, with u = g / |g|."""
    u = np.array([0.6, -0.8])
    g = jnp.asarray(u * magnitude, jnp.float32)
    by_g, by_c = _jacobians()(g, 0.25 * magnitude)
    np.testing.assert_allclose(by_g, (np.eye(2) - np.outer(u, u)) / 4, rtol=1e-5)
    np.testing.assert_allclose(by_c, u, rtol=1e-5)
    by_g, by_c = _jacobians()(g, 4.0 * magnitude)
    np.testing.assert_array_equal(by_g, np.eye(2))
    np.testing.assert_array_equal(by_c, np.zeros(2))


@functools.cache
def _jacobians():
    return jax.jit(
        jax.jacrev(lambda g, c: update(stabjax.clip_by_global_norm(c), g), (0, 1))
    )


def test_derivatives_by_a_threshold_are_finite_everywhere():
    def total(c, name, g, w):
        return sum(map(jnp.sum, jax.tree.leaves(update(MAKERS[name](c), g, w))))

    @jax.jit
    def slopes(c, g, w):
        return [jax.grad(total)(c, name, g, w) for name in MAKERS]

    params = random_tree("float32", seed=1)
    for magnitude in (0, 1, 1e20, 1e30, 1e-20, 1e-30):
        grads = random_tree("float32", magnitude)
        for c in (0.0, 1e-30, 1.0, 1e30, np.inf):
            assert np.all(np.isfinite(slopes(c, grads, params)))
