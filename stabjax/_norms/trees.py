"""Norms of trees, of leaves, of parts of arrays and of examples."""

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from stabjax._axes import Axes, leaf_axes, over_devices, reduced
from stabjax._norms.scaled import (
    ScaledNorm,
    as_scaled,
    bits_of,
    inverse_power,
    safe_root,
)
from stabjax._paths import check_arrays

Tree = TypeVar("Tree")

# Up to this number, elements are scaled by the largest. A `cond` would take longer, and
# under `vmap` both of its branches run.
_FEW = 64


def global_norm(tree: object, ord: float = 2, *, axis_name: object = None) -> jax.Array:
    """Computes the global norm of a tree.

        |g|_p = (sum_i |g_i|^p)^(1/p),  and  max_i |g_i|  for ord=inf

    The norm is correct for all finite inputs. Squares are summed in float32 or wider.
    If the sum leaves the safe range, it is recomputed with rescaled elements, so the
    2-norm reads the tree once in most cases. Up to 64 elements are always rescaled, and
    other orders read the tree twice. The derivative at zero is zero.

    Inside `shard_map`, array types list the mesh axes over which each leaf is sharded,
    and the function sums over those axes to compute the norm of the full tree.
    Automatic and explicit meshes need no extra arguments either.

    Args:
      tree: a tree of real or complex arrays and numbers, possibly with mixed dtypes.
        None and gradients of integers (float0) are ignored. The norm of an empty tree
        is 0.
      ord: order of the norm, in [1, inf]. **Static.**
      axis_name: only needed for axes that types do not track: in `vmap`, in `pmap`, and
        in `shard_map` with `check_vma=False`. The name or tuple of names of the mapped
        axes over which every leaf is sharded, or a prefix tree of such names. `()`
        returns the norm of each device's local shard. **Static.**

    Returns:
      A scalar, float64 if any leaf is float64 and float32 otherwise. The result is inf
      only if the norm exceeds that dtype's range or an element is inf, and NaN if an
      element is NaN.

    Raises:
      ValueError: If `ord` is out of range, or `axis_name` contradicts the type of a
        leaf.
      TypeError: If a leaf is not an array or a number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> float(stabjax.global_norm({"a": jnp.array([3.0, 0.0]), "b": 4.0}))
      5.0
      >>> float(stabjax.global_norm(jnp.full(4, 60_000, jnp.float16)))
      120000.0
      >>> float(stabjax.global_norm([3.0, -4.0], ord=1))
      7.0

    References:
      J. L. Blue, A portable Fortran program to find the Euclidean norm of a vector,
      1978, https://doi.org/10.1145/355769.355771
    """
    order = check_order(ord)
    return scaled_norm(tree, order, axis_name=axis_name, argument="tree").product


def leaf_norms(tree: Tree, ord: float = 2, *, axis_name: object = None) -> Tree:
    """Computes the norm of each leaf of a tree.

        |g_l|_p  for every leaf l

    Uses the same overflow-safe arithmetic as `stabjax.global_norm`.

    Args:
      tree: a tree of arrays and numbers.
      ord: order of the norm, in [1, inf]. **Static.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A tree with the same structure and one scalar for each leaf.

    Raises:
      ValueError: If `ord` is out of range, or `axis_name` contradicts the type of a
        leaf.
      TypeError: If a leaf is not an array or a number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> norms = stabjax.leaf_norms({"b": jnp.array(-2.0), "w": jnp.array([3.0, 4.0])})
      >>> {name: float(norm) for name, norm in norms.items()}
      {'b': 2.0, 'w': 5.0}
    """
    order = check_order(ord)
    norms = scaled_leaf_norms(tree, order, axis_name=axis_name, argument="tree")
    whole: Tree = jax.tree.unflatten(jax.tree.structure(tree), list(norms.product))
    return whole


def scaled_norm(
    tree: object,
    ord: float = 2,
    *,
    axis_name: object = None,
    argument: str = "updates",
) -> ScaledNorm:
    """Computes the global norm as value and unit. See `global_norm`."""
    axes = leaf_axes(argument, tree, axis_name)
    norm: ScaledNorm = norm_of_leaves(jax.tree.leaves(tree), axes, ord, False)
    return norm


def scaled_leaf_norms(
    tree: object,
    ord: float = 2,
    *,
    axis_name: object = None,
    argument: str = "updates",
) -> ScaledNorm:
    """Stacks the norms of all leaves along axis 0, as values and units."""
    axes = leaf_axes(argument, tree, axis_name)
    norms: ScaledNorm = norm_of_leaves(jax.tree.leaves(tree), axes, ord, True)
    return norms


# Without `jit`, every eager call would compile its `cond` again.
@partial(jax.jit, static_argnames=("axes", "ord", "apart"), inline=True)
def norm_of_leaves(
    leaves: Sequence[ArrayLike], axes: tuple[Axes, ...], ord: float, apart: bool
) -> ScaledNorm:
    """Computes the norm of all leaves together, or one norm per leaf if `apart`."""
    dtype = norm_dtype(leaves)
    if not leaves:
        shape = (0,) if apart else ()
        return ScaledNorm(jnp.zeros(shape, dtype), jnp.ones(shape, dtype))
    # Empty arrays have no maximum, so they count as a single zero.
    wide = [
        widened(x, dtype) if has_elements(x) else jnp.zeros(1, dtype) for x in leaves
    ]
    if ord != 2:
        return _power_norm(wide, axes, ord, apart)

    def total(k: jax.Array | None) -> jax.Array:
        scales = list(k) if apart and k is not None else [k] * len(wide)
        sums = [_sum(_squares(x, k)) for x, k in zip(wide, scales, strict=True)]
        return reduced(sums, axes, apart)

    if sum(x.size for x in wide) <= _FEW:
        largest = reduced([*map(_largest, wide)], axes, apart, largest=True)
        k = inverse_power(largest, dtype)
        return ScaledNorm(safe_root(total(k)), 1 / k)
    norm: ScaledNorm = _root_of_squares(total)
    return norm


@partial(jax.jit, static_argnames=("units", "axes"), inline=True)
def norms_of_units(
    arrays: Sequence[jax.Array],
    units: tuple[int | tuple[int, ...] | None, ...],
    axes: tuple[Axes, ...],
) -> list[ScaledNorm]:
    """Computes 2-norms of each array along its `units` axes, keeping dimensions."""
    wide = [widened(x, norm_dtype([x])) for x in arrays]

    def total(k: list[jax.Array] | None) -> list[jax.Array]:
        return [
            over_devices(
                jnp.sum(_squares(x, None if k is None else k[i]), unit, keepdims=True),
                names,
            )
            for i, (x, unit, names) in enumerate(zip(wide, units, axes, strict=True))
        ]

    norms: list[ScaledNorm] = _root_of_squares(total)
    return norms


@partial(jax.jit, static_argnames="axes", inline=True)
def norms_of_examples(
    leaves: Sequence[ArrayLike], axes: tuple[Axes, ...]
) -> ScaledNorm:
    """Computes the 2-norm of each example's gradient, with examples along axis 0.

    One `cond` serves all examples. Under `vmap` both branches would run, and on
    explicit meshes JAX 0.10 does not support a batched `cond` predicate.
    """
    dtype = norm_dtype(leaves)
    wide = [widened(x, dtype) for x in leaves]

    def total(k: jax.Array | None) -> jax.Array:
        sums = []
        for x in wide:
            scale = None if k is None else k.reshape(k.shape + (1,) * (x.ndim - 1))
            sums.append(jnp.sum(_squares(x, scale), axis=tuple(range(1, x.ndim))))
        return reduced(sums, axes, False)

    norms: ScaledNorm = _root_of_squares(total)
    return norms


def unit_norms(x: jax.Array, axis: int | tuple[int, ...] | None) -> ScaledNorm:
    """Computes 2-norms of one array along `axis`, keeping dimensions."""
    norms: list[ScaledNorm] = norms_of_units([x], (axis,), ((),))
    return norms[0]


def norm_dtype(tree: object) -> np.dtype:
    """Returns float64 if any leaf is float64, and float32 otherwise.

    Leaves may be arrays, Python numbers or `jax.ShapeDtypeStruct`.
    """
    leaves, double = jax.tree.leaves(tree), (jnp.float64, jnp.complex128)
    try:
        found = [jnp.result_type(x) in double for x in leaves if not is_float0(x)]
    except TypeError:
        check_arrays("params", tree)
        raise
    return np.dtype(np.float64 if any(found) else np.float32)


def is_float0(leaf: object) -> TypeGuard[jax.Array]:
    """Returns whether a leaf is a float0 gradient of an integer parameter."""
    return getattr(leaf, "dtype", None) == jax.dtypes.float0


def has_elements(leaf: ArrayLike) -> bool:
    """Returns whether a leaf is not empty."""
    return not is_float0(leaf) and jnp.size(leaf) > 0


def widened(x: ArrayLike, dtype: DTypeLike) -> jax.Array:
    """Casts an array to the given dtype, or to its complex counterpart."""
    if jnp.iscomplexobj(x):
        dtype = jnp.complex128 if dtype == jnp.float64 else jnp.complex64
    return jnp.asarray(x).astype(dtype)


def check_order(ord: float) -> float:
    """Returns the order of a norm, or raises a ValueError if not in [1, inf]."""
    numbers = (int, float, np.integer, np.floating)
    if not isinstance(ord, numbers) or not ord >= 1:
        raise ValueError(
            f"ord must be a number in [1, inf], known at trace time, got {ord!r}."
        )
    # Integer powers compile to multiplications.
    return int(ord) if float(ord).is_integer() else float(ord)


def _squares(x: jax.Array, k: jax.Array | None) -> jax.Array:
    """Computes |k x|^2 elementwise."""
    if jnp.iscomplexobj(x):
        return _squares(x.real, k) + _squares(x.imag, k)
    if k is not None:
        # Without a rounding, which LLVM removes, XLA would rewrite this to x^2 k^2 if x
        # is a constant.
        limits = np.finfo(x.dtype)
        x = lax.reduce_precision(x * k, limits.nexp, limits.nmant)
    return x * x  # not jnp.square: its derivative 2 x may overflow


def _sum(x: jax.Array) -> jax.Array:
    """Sums all elements, up to four one by one unless they are sharded."""
    # With `jnp.sum`, clipping 65,536 trials of two elements under `vmap` takes 14 times
    # as long (XLA:CPU, jaxlib 0.10).
    return sum(parts[1:], parts[0]) if (parts := _parts(x)) else jnp.sum(x)


def _parts(x: jax.Array) -> list[jax.Array]:
    """Returns the elements of a tiny array that is not sharded, or an empty list."""
    sharded = any(getattr(jax.typeof(x).sharding, "spec", ()))
    return [] if x.ndim == 0 or x.size > 4 or sharded else [*x.reshape(-1)]


def _largest(x: jax.Array) -> jax.Array:
    """Returns the bits of the largest magnitude. NaN exceeds all numbers."""
    if jnp.iscomplexobj(x):
        return jnp.maximum(_largest(x.real), _largest(x.imag))
    bits = bits_of(x)
    parts = _parts(bits)
    return functools.reduce(jnp.maximum, parts) if parts else jnp.max(bits)


def magnitudes(x: jax.Array) -> jax.Array:
    """Computes |x| elementwise, with derivative 0 at 0 (`jnp.abs` has 1)."""
    return jnp.abs(x) if jnp.iscomplexobj(x) else _magnitudes(x)


@jax.custom_jvp
def _magnitudes(x: jax.Array) -> jax.Array:
    # Not x * sign(x): XLA:CPU (jaxlib 0.10) writes signs to memory before it reduces.
    return jnp.abs(x)


_magnitudes.defjvps(lambda tangent, _, x: jnp.sign(x) * tangent)


def _root_of_squares(total: Callable[[Any], Any]) -> Any:
    """Computes sqrt(total(1)), where total(k) sums squared elements multiplied by k.

    A plain sum may be so large that its square overflows in the derivative, or so small
    that squares may have been flushed to zero. In both cases it is recomputed with a
    power of two as k. A single `cond` handles all sums because each takes 17
    microseconds on a GPU, and only the sums are its outputs. Under `vmap` both branches
    run.
    """
    plain = total(None)
    k = jax.tree.map(_rescaling, plain)
    # Not stacked: under `vmap`, XLA would write the stacked flags to memory.
    flags = [jnp.all(x == 1) for x in jax.tree.leaves(k)]
    safe = jax.tree.reduce(jnp.logical_and, flags, jnp.ones((), bool))
    squares = lax.cond(safe, lambda: plain, lambda: total(k))
    return jax.tree.map(lambda x, k: as_scaled(safe_root(x), 1 / k), squares, k)


def _rescaling(squares: jax.Array) -> jax.Array:
    """Returns the power of two that rescales elements with this sum of squares."""
    exponent = np.finfo(squares.dtype).maxexp
    down = 2.0 ** -(5 * exponent // 8)
    k = jnp.where(squares > 2.0 ** (3 * exponent // 4), down, jnp.ones_like(squares))
    return jnp.where(squares < 2.0 ** -(exponent // 2), 1 / down, k)


def _attains_maximum(x: jax.Array, largest: jax.Array, bound: jax.Array) -> jax.Array:
    """Returns 1 if the maximum equals the bound, 0 if not, NaN if `x` contains NaN."""
    # Under `vmap`, XLA:CPU (jaxlib 0.10) ignores NaN in some maxima.
    attains = (largest == bound).astype(largest.dtype)
    return jnp.where(jnp.any(jnp.isnan(x)), jnp.nan, attains)


def _power_norm(
    arrays: Sequence[jax.Array], axes: tuple[Axes, ...], ord: float, apart: bool
) -> ScaledNorm:
    """Computes M (sum_i (|x_i| / M)^p)^(1/p) with M = max_i |x_i| held constant."""

    def each(x: jax.Array) -> list[jax.Array]:
        return list(x) if apart else [x] * len(arrays)

    total = partial(reduced, axes=axes, apart=apart)
    largest = [jnp.max(magnitudes(x)) for x in arrays]
    bound = total(lax.stop_gradient(largest), largest=True)
    if ord == math.inf:
        # A maximum over devices has no derivative, so this sums instead. Shards that
        # attain it share its derivative. Scaled down, because the sum may overflow.
        k = jnp.where(bound > 1, 2.0**-32, jnp.ones_like(bound))
        ties = list(map(_attains_maximum, arrays, largest, each(bound)))
        shares = [a * (m * c) for a, m, c in zip(ties, largest, each(k), strict=True)]
        return as_scaled(total(shares) / total(ties), 1 / k)
    unit = jnp.where((bound > 0) & jnp.isfinite(bound), bound, 1)
    # 1 / M may be subnormal and flushed to zero, so k first moves M to mid-range.
    half = 2.0 ** (np.finfo(bound.dtype).maxexp // 2)
    k = jnp.where(unit > 1, 1 / half, half)
    scaled = zip(arrays, each(k), each(unit * k), strict=True)
    powers = total([jnp.sum((magnitudes(x) * k / m) ** ord) for x, k, m in scaled])
    positive = powers > 0
    root = jnp.where(positive, powers, 1) ** (1 / ord)
    value = jnp.where(positive, root, lax.stop_gradient(powers))
    k = inverse_power(bits_of(unit), unit.dtype)
    return as_scaled(value * (unit * k), 1 / k)
