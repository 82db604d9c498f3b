"""Norms and clipping rules straight from their formulas: NumPy, float64, no tricks."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

HALF = {"float16": jnp.float16, "bfloat16": jnp.bfloat16}
DTYPES = HALF | {"float32": jnp.float32, "float64": jnp.float64}

# One rounding of the dtype's result, and a few of the arithmetic that led there.
TOLERANCE = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 1e-6, "float64": 3e-15}

# Normal float32 numbers: XLA flushes the subnormal, and the largest round to inf.
FLOATS = st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=False)


def x64_if(dtype_name):
    """The context in which a dtype exists."""
    return jax.enable_x64(dtype_name == "float64")


def random_tree(dtype, magnitude=1.0, seed=0):
    """Entries of up to a magnitude, over three decades; shapes are always the same."""
    rng = np.random.default_rng(seed)

    def leaf(*shape):
        sizes = 10 ** rng.uniform(-3, 0, shape) * rng.choice([-1, 1], shape)
        return jnp.asarray(sizes * magnitude, dtype)

    return {"w": leaf(3, 2), "b": leaf(4), "s": leaf(), "none": None}


def exact(x):
    """An array in NumPy's float64 or complex128."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def norm(tree, ord=2):
    """(sum |x|^p)^(1/p) over all entries; the largest in front, for float64's sake."""
    entries = [np.abs(exact(leaf)).ravel() for leaf in jax.tree.leaves(tree)]
    entries = np.concatenate([np.zeros(1), *entries])
    largest = entries.max()
    if ord == np.inf or largest == 0 or not np.isfinite(largest):
        return largest
    return largest * np.sum((entries / largest) ** ord) ** (1 / ord)


def rescaled(x, its_norm, limit):
    """x min(1, limit / norm); all NaN if the norm is not finite."""
    x = exact(x)
    if not np.isfinite(its_norm):
        return np.full_like(x, np.nan)
    return x if its_norm <= limit else x / its_norm * limit


def clip(tree, limit):
    return jax.tree.map(lambda x: np.clip(exact(x), -limit, limit), tree)


def clip_by_global_norm(tree, limit):
    return jax.tree.map(lambda x: rescaled(x, norm(tree), limit), tree)


def clip_by_block_norm(tree, limit):
    return jax.tree.map(lambda x: rescaled(x, norm(x), limit), tree)


def clip_by_block_rms(tree, limit):
    return jax.tree.map(
        lambda x: rescaled(x, norm(x) / max(np.size(x), 1) ** 0.5, limit), tree
    )


def units(shape, axis=None):
    """The indices of the entries of each unit of an array of this shape."""
    if axis is None:
        squeezed = sum(size != 1 for size in shape)
        by_rank = {2: (0,), 3: (0,), 4: (0, 1, 2), 5: (0, 1, 2, 3)}
        axis = by_rank[len(shape)] if squeezed > 1 else range(len(shape))
    axis = (axis,) if isinstance(axis, int) else tuple(axis)
    axis = {a % len(shape) for a in axis}
    units = {}
    for index in np.ndindex(*shape):
        kept = tuple(i for a, i in enumerate(index) if a not in axis)
        units.setdefault(kept, []).append(index)
    return [tuple(np.transpose(members)) for members in units.values()]


def unitwise_norm(x, axis=None):
    norms = np.zeros(np.shape(x))
    for unit in units(np.shape(x), axis):
        norms[unit] = norm(exact(x)[unit])
    return norms


def adaptive_grad_clip(tree, params, limit, eps=1e-3, axis=None):
    def bounded(g, w):
        g, w = exact(g), exact(w)
        result = np.zeros_like(g)
        for unit in units(g.shape, axis):
            result[unit] = rescaled(
                g[unit], norm(g[unit]), limit * max(norm(w[unit]), eps)
            )
        return result

    return jax.tree.map(bounded, tree, params)


# The public name of a transformation -> updates, params, threshold -> its updates.
RULES = {
    "clip": lambda g, w, c: clip(g, c),
    "clip_by_global_norm": lambda g, w, c: clip_by_global_norm(g, c),
    "clip_by_block_norm": lambda g, w, c: clip_by_block_norm(g, c),
    "clip_by_block_rms": lambda g, w, c: clip_by_block_rms(g, c),
    "adaptive_grad_clip": adaptive_grad_clip,
}
BY_NORM = [name for name in RULES if name != "clip"]


def updates_of(transformation, updates, params=None):
    return transformation.update(updates, transformation.init(updates), params)[0]


def per_example(tree, limit):
    """The sum of the clipped examples, and how many of them were clipped."""
    examples = [
        jax.tree.map(lambda x: x[i], tree)  # noqa: B023
        for i in range(len(jax.tree.leaves(tree)[0]))
    ]
    clipped = [clip_by_global_norm(example, limit) for example in examples]
    total = jax.tree.map(lambda *xs: sum(xs), *clipped)
    return total, sum(norm(example) > limit for example in examples)


def assert_close(actual, expected, dtype_name=None, factor=1):
    """Equal leaves but for the rounding of each leaf's own dtype (or of the named)."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        dtype = jnp.dtype(dtype_name or a.dtype)
        real = dtype.type(0).real.dtype
        bound = TOLERANCE[real.name] * factor
        tiny = float(jnp.finfo(real).smallest_subnormal)
        if real.name in ("bfloat16", "float32"):
            tiny = float(jnp.finfo(real).tiny)  # XLA flushes what is below
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = np.asarray(e).astype(dtype)  # inf beyond the dtype
        np.testing.assert_allclose(exact(a), exact(rounded), rtol=bound, atol=tiny)
