"""The same values as Optax, where Optax is right."""

import functools

import jax
import jax.numpy as jnp
import models
import numpy as np
import optax
import pytest

import stabjax

LIKE_OPTAX = [name for name in models.RULES if hasattr(optax, name)]


def random_leaves(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def updates_of(make, updates, limit, params):
    return models.updates_of(make(limit), updates, params)


@pytest.fixture
def as_optax_has_it():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", LIKE_OPTAX)
def test_values_within_roundings_of_optax(name, as_optax_has_it):
    shapes = ((3, 4), (5,), (2, 3, 4, 2), (), (1, 4, 1), (2, 2, 2), (2, 1, 2, 2, 2))

    @jax.jit
    def both(updates, limit, params):
        return [
            updates_of(getattr(module, name), updates, limit, params)
            for module in (stabjax, optax)
        ]

    for seed in range(20):
        grads, params = random_leaves(seed, *shapes), random_leaves(seed + 99, *shapes)
        for limit in (0.1, 1.0, 20.0):
            ours, theirs = both(grads, jnp.float32(limit), params)
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_max_ulp(np.asarray(a), np.asarray(b), maxulp=4)
        # Below the threshold nothing changes.
        for got in both(grads, jnp.float32(1e6), params):
            jax.tree.map(np.testing.assert_array_equal, got, grads)


def test_exactly_at_the_threshold():
    g = jnp.array([3.0, 4.0])

    @functools.partial(jax.jit, static_argnums=0)
    def at_the_threshold(module, g, w):
        return [
            updates_of(module.clip, g, 4.0, w),
            updates_of(module.clip_by_global_norm, g, 5.0, w),
            updates_of(module.clip_by_block_rms, g, 12.5**0.5, w),
            updates_of(module.adaptive_grad_clip, g, 0.5, w),
        ]

    ours, theirs = (at_the_threshold(module, g, 2 * g) for module in (stabjax, optax))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_max_ulp(np.asarray(a), np.asarray(b), maxulp=1)
        np.testing.assert_allclose(a, g, rtol=3e-7)


SHAPES = [(), (1,), (4,), (1, 1), (4, 1), (1, 4), (3, 4), (2, 3, 4), (1, 3, 1)]
SHAPES += [(2, 2, 3, 4), (2, 1, 2, 3, 2), (0,), (0, 3), (3, 0)]


def test_units_of_every_rank():
    xs = random_leaves(1, *SHAPES)

    @jax.jit
    def norms(xs):
        return [
            (stabjax.unitwise_norm(x), optax.transforms.unitwise_norm(x)) for x in xs
        ]

    for x, (norm, theirs) in zip(xs, norms(xs), strict=True):
        assert norm.shape == x.shape and norm.dtype == jnp.float32
        np.testing.assert_allclose(norm, theirs, rtol=1e-6)
        np.testing.assert_allclose(norm, models.unitwise_norm(x), rtol=1e-6)


def test_units_along_given_axes(as_optax_has_it):
    axes = (0, 1, -1, (0, 2), (0, 1, 2), (-1, -2))
    g, w = random_leaves(2, (2, 3, 4), (2, 3, 4))

    @jax.jit
    def along(g, w):
        found = []
        for axis in axes:
            ours, theirs = (
                models.updates_of(module.adaptive_grad_clip(0.3, 1e-2, axis), g, w)
                for module in (stabjax, optax)
            )
            found.append((stabjax.unitwise_norm(g, axis), ours, theirs))
        return found

    for axis, (norm, ours, theirs) in zip(axes, along(g, w), strict=True):
        np.testing.assert_allclose(norm, models.unitwise_norm(g, axis), rtol=1e-6)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        expected = models.adaptive_grad_clip(g, w, 0.3, 1e-2, axis)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_unit_norms_of_any_magnitude_and_dtype():
    for magnitude in (1e30, 1e-30, 3e38):
        x = jnp.array([[3.0, 1.0], [4.0, 0.0]]) / 5 * magnitude
        norms = stabjax.unitwise_norm(x)
        np.testing.assert_allclose(norms[0], [magnitude, magnitude / 5], rtol=1e-6)
    half = stabjax.unitwise_norm(jnp.full((4, 2), 6e4, jnp.float16))
    assert half.dtype == jnp.float32 and half[0, 0] == 120000
    assert stabjax.unitwise_norm(jnp.array([3j, 4])).tolist() == [5, 5]


def test_unitwise_clip():
    (g,) = random_leaves(3, (3, 4))
    norm, limit = stabjax.unitwise_norm(g), jnp.full((3, 4), 1.5)
    for args in ((norm, limit, g), (norm, limit, g, 2.0), (norm, norm, g, 1e-6)):
        ours = stabjax.unitwise_clip(*args)
        theirs = optax.transforms.unitwise_clip(*args)
        np.testing.assert_array_max_ulp(np.asarray(ours), np.asarray(theirs), maxulp=2)
    half = stabjax.unitwise_clip(norm, limit, g.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    # Neither turned around nor hidden beside zeros.
    nan = stabjax.unitwise_clip(norm, -limit, g)
    assert np.isnan(nan).all()
    nan = stabjax.unitwise_clip(
        jnp.full(2, np.inf), jnp.ones(2), jnp.array([np.inf, 1])
    )
    assert np.isnan(nan).all()


def test_units_smaller_than_optax_can_divide_by():
    """Optax divides by no less than 1e-6, and bounds these units far too much."""
    g, w = jnp.array([3e-8, 4e-8]), jnp.array([0.0, 0.0])
    got = models.updates_of(stabjax.adaptive_grad_clip(1e-5), g, w)
    np.testing.assert_allclose(models.norm(got), 1e-8, rtol=1e-6)


def test_hyperparameters_injected(as_optax_has_it):
    """As in Optax, the threshold may live in the state, and be changed there."""
    g = jnp.array([3.0, 4.0])
    for name, w, kwargs in (
        ("clip", None, {"max_delta": 2.0}),
        ("clip_by_global_norm", None, {"max_norm": 2.5}),
        ("clip_by_block_rms", None, {"threshold": 1.0}),
        ("adaptive_grad_clip", 2 * g, {"clipping": 0.1, "eps": 1e-3}),
    ):
        found = []
        for module in (stabjax, optax):
            static = () if module is optax or w is None else ("axis",)
            make = optax.inject_hyperparams(getattr(module, name), static_args=static)
            tx = make(**kwargs)
            update = jax.jit(tx.update)
            first, state = update(g, tx.init(g), w)
            state.hyperparams[next(iter(kwargs))] *= 0.5
            second, state = update(g, state, w)
            found.append((first, second))
        np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
        np.testing.assert_allclose(
            found[0][1], first / 2, rtol=1e-6
        ) if w is not None else None
