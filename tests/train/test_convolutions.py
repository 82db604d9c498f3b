"""Convolutions as products: the values and derivatives of XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from stabjax._train.convolutions import with_products

RNG = np.random.default_rng(0)
KINDS = {
    "same": {"padding": "SAME"},
    "valid": {"padding": "VALID"},
    "strides": {"padding": "SAME", "window_strides": (2, 3)},
    "asymmetric": {"padding": ((2, 0), (0, 3))},
    "dilated": {"padding": "SAME", "rhs_dilation": (2, 1)},
    "transposed": {"padding": ((2, 2), (1, 3)), "lhs_dilation": (2, 3)},
    "groups": {"padding": "SAME", "feature_group_count": 2},
    "depthwise": {"padding": "SAME", "feature_group_count": 4},
    "first": {"padding": "SAME", "dimension_numbers": ("NCHW", "OIHW", "NCHW")},
    "mixed": {"padding": "SAME", "dimension_numbers": ("HWNC", "OHWI", "NHCW")},
    "precise": {"padding": "SAME", "precision": lax.Precision.HIGHEST},
}
LAST = ("NHWC", "HWIO", "NHWC")


def arrays(kind, given):
    """Inputs and a kernel of 3 x 2, in the layout of the kind."""
    sizes = {"N": 2, "H": 7, "W": 6, "C": 4}
    inputs, kernel, _ = given["dimension_numbers"]
    inner = 4 // given.get("feature_group_count", 1)
    window = {"H": 3, "W": 2, "I": inner, "O": 8}
    shapes = [sizes[d] for d in inputs], [window[d] for d in kernel]
    return [jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_product_is_the_convolution_and_so_are_its_derivatives(kind):
    given = {"dimension_numbers": LAST, "window_strides": (1, 1), **KINDS[kind]}
    x, w = arrays(kind, given)

    def convolved(x, w):
        return lax.conv_general_dilated(x, w, **given)

    changed = with_products(convolved)
    expected = convolved(x, w)
    np.testing.assert_allclose(changed(x, w), expected, rtol=1e-4, atol=1e-4)
    weights = jnp.asarray(RNG.normal(size=expected.shape), jnp.float32)

    def value(function):
        return lambda x, w: jnp.sum(weights * function(x, w) ** 2)

    found = jax.jit(jax.grad(value(changed), (0, 1)))(x, w)
    for a, b in zip(found, jax.grad(value(convolved), (0, 1))(x, w), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_negative_padding_crops():
    """XLA:CPU (jaxlib 0.10) reads beyond the array there."""
    x, w = arrays("valid", {"dimension_numbers": LAST})
    given = {"dimension_numbers": LAST, "window_strides": (1, 1)}

    def convolved(x, w, padding=((-1, 1), (0, -1))):
        return lax.conv_general_dilated(x, w, padding=padding, **given)

    expected = convolved(x[:, 1:, :-1], w, ((0, 1), (0, 0)))
    found = with_products(convolved)(x, w)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def convolutions(function, *arguments):
    """The convolutions that are left in a program that is compiled for CPUs."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return text.count(" convolution(")


def conv(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=LAST)


@pytest.mark.parametrize(
    "function",
    [
        conv,
        jax.jit(conv),
        jax.checkpoint(conv),
        lambda x, w: jax.nn.relu(conv(x, w)),
        lambda x, w: lax.scan(lambda c, _: (conv(c, w), c.sum()), x, None, 3),
        lambda x, w: lax.fori_loop(0, 3, lambda _, c: conv(c, w), x),
        lambda x, w: lax.cond(x.sum() > 0, conv, lambda x, w: x, x, w),
        lambda x, w: lax.map(lambda x: conv(x[None], w), x),
    ],
)
@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="on CPUs alone")
def test_convolutions_in_calls_and_loops_are_products(function):
    x = jnp.asarray(RNG.normal(size=(2, 5, 5, 3)), jnp.float32)
    w = jnp.asarray(RNG.normal(size=(3, 3, 3, 3)) / 5, jnp.float32)
    changed = with_products(function)
    np.testing.assert_allclose(
        jax.tree.leaves(jax.jit(changed)(x, w))[0],
        jax.tree.leaves(jax.jit(function)(x, w))[0],
        rtol=1e-4,
        atol=1e-5,
    )
    kernels = jnp.stack([w, w])
    batched = jax.vmap(changed, (None, 0))
    assert convolutions(batched, x, kernels) == 0
    assert convolutions(jax.vmap(function, (None, 0)), x, kernels) > 0


def test_the_settings_of_other_operations_stay_the_same():
    def function(x, w):
        with jax.threefry_partitionable(False):
            return conv(x, w), jax.random.bits(jax.random.key(0), (4,))

    x, w = jnp.ones((2, 5, 5, 1)), jnp.ones((3, 3, 1, 2))
    assert (with_products(function)(x, w)[1] == function(x, w)[1]).all()
