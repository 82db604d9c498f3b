"""Norms of trees on any mesh: no overflow, no underflow, one read."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from stabjax._axes import Axes, leaf_axes, over_devices
from stabjax._paths import check_arrays

Tree = TypeVar("Tree")


class ScaledNorm(NamedTuple):
    """A norm, `value * unit`, whose two parts are finite where the product is not."""

    value: jax.Array
    unit: jax.Array  # a positive constant: no derivative flows through it

    @property
    def product(self) -> jax.Array:
        """The norm itself: inf where it exceeds the dtype."""
        return self.value * self.unit


def global_norm(tree: object, ord: float = 2, *, axis_name: object = None) -> jax.Array:
    """Norm of all elements of a tree together, right for every finite input.

        |g|_p = (sum_i |g_i|^p)^(1/p),  and  max_i |g_i|  for ord=inf

    Squares are summed in float32 or wider. Where a sum leaves the range of safe
    squares it is recomputed with rescaled elements, so the 2-norm reads the tree once
    (other orders read it twice) and neither overflows nor underflows. The derivative at
    zero is zero.

    Inside `shard_map`, the type of each array says over which mesh axes it is sharded,
    and the norm is that of the whole tree: the sum runs over just those axes, leaf by
    leaf. On automatic and explicit meshes nothing needs to be said either.

    Args:
      tree: any tree of arrays and numbers, real or complex, of any mixture of dtypes.
        None and the gradients of integers (float0) count for nothing; an empty tree has
        norm 0.
      ord: order of the norm, in [1, inf]. **Static.**
      axis_name: for axes that types do not show (`vmap`, `pmap`, and `shard_map` with
        `check_vma=False`), the name or the tuple of names of the mapped axes over which
        every leaf is sharded, or a tree of these that is a prefix of `tree`. `()` gives
        the norm of each device's own part. **Static.**

    Returns:
      A scalar, float32, or float64 if a leaf is. Inf only if the norm itself exceeds
      that dtype or an element is inf; NaN if an element is NaN.

    Raises:
      ValueError: `ord` is out of range, or `axis_name` contradicts the type of a leaf.
      TypeError: a leaf is not an array or a number.

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
    """Norm of each leaf of a tree by itself.

        |g_l|_p  for every leaf l

    Has the arguments and the numerical care of `stabjax.global_norm`.

    Args:
      tree: any tree of arrays and numbers.
      ord: order of the norm, in [1, inf]. **Static.**
      axis_name: as in `stabjax.global_norm`. **Static.**

    Returns:
      A tree of the same structure that holds a scalar for each leaf.

    Raises:
      ValueError: `ord` is out of range, or `axis_name` contradicts the type of a leaf.
      TypeError: a leaf is not an array or a number.

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
    """The norm of a whole tree as value and unit; see `global_norm`."""
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
    """The norms of all leaves along axis 0, as values and units."""
    axes = leaf_axes(argument, tree, axis_name)
    norms: ScaledNorm = norm_of_leaves(jax.tree.leaves(tree), axes, ord, True)
    return norms


# Under `jit`: in eager mode each call would compile its `cond` anew.
@partial(jax.jit, static_argnames=("axes", "ord", "apart"), inline=True)
def norm_of_leaves(
    leaves: Sequence[ArrayLike], axes: tuple[Axes, ...], ord: float, apart: bool
) -> ScaledNorm:
    """The norm of all leaves together, or the vector of their norms if `apart`."""
    dtype = norm_dtype(leaves)
    if not leaves:
        shape = (0,) if apart else ()
        return ScaledNorm(jnp.zeros(shape, dtype), jnp.ones(shape, dtype))
    # What has no elements counts as one zero, since it has no largest element.
    wide = [
        widened(x, dtype) if has_elements(x) else jnp.zeros(1, dtype) for x in leaves
    ]
    if ord != 2:
        return _power_norm(wide, axes, ord, apart)

    def total(k: jax.Array | None) -> jax.Array:
        scales = list(k) if apart and k is not None else [k] * len(wide)
        sums = [_sum(_squares(x, k)) for x, k in zip(wide, scales, strict=True)]
        return reduced(sums, axes, apart)

    return _root_of_squares(total)


@partial(jax.jit, static_argnames=("units", "axes"), inline=True)
def norms_of_units(
    arrays: Sequence[jax.Array],
    units: tuple[int | tuple[int, ...] | None, ...],
    axes: tuple[Axes, ...],
) -> list[ScaledNorm]:
    """2-norms of the slices of each array along its `units`; dimensions are kept."""
    wide = [widened(x, norm_dtype([x])) for x in arrays]

    def total(k: list[jax.Array] | None) -> list[jax.Array]:
        return [
            over_devices(
                jnp.sum(_squares(x, None if k is None else k[i]), unit, keepdims=True),
                names,
            )
            for i, (x, unit, names) in enumerate(zip(wide, units, axes, strict=True))
        ]

    values, scales = _root_of_squares(total)
    return list(map(ScaledNorm, values, scales))


@partial(jax.jit, static_argnames="axes", inline=True)
def norms_of_examples(
    leaves: Sequence[ArrayLike], axes: tuple[Axes, ...]
) -> ScaledNorm:
    """2-norm of each example over all leaves, which have the examples along axis 0.

    One decision for all examples: under `vmap` there would be two sums, and on explicit
    meshes JAX 0.10 refuses a `cond` whose condition is batched.
    """
    dtype = norm_dtype(leaves)
    wide = [widened(x, dtype) for x in leaves]

    def total(k: jax.Array | None) -> jax.Array:
        sums = []
        for x in wide:
            scale = None if k is None else k.reshape(k.shape + (1,) * (x.ndim - 1))
            sums.append(jnp.sum(_squares(x, scale), axis=tuple(range(1, x.ndim))))
        return reduced(sums, axes, False)

    return _root_of_squares(total)


def unit_norms(x: jax.Array, axis: int | tuple[int, ...] | None) -> ScaledNorm:
    """2-norms of the slices of one array along `axis`; its dimensions are kept."""
    norms: list[ScaledNorm] = norms_of_units([x], (axis,), ((),))
    return norms[0]


def as_scaled(norm: jax.Array) -> ScaledNorm:
    """A known norm, with a unit that keeps the square of its value in range."""
    exponent = np.finfo(norm.dtype).maxexp
    down, large = 2.0 ** -(5 * exponent // 8), 2.0 ** (3 * exponent // 8)
    k = jnp.where(norm > large, down, jnp.ones_like(norm))
    k = lax.stop_gradient(jnp.where(norm < 1 / large, 1 / down, k))
    return ScaledNorm(norm * k, 1 / k)


def norm_dtype(tree: object) -> np.dtype:
    """The dtype of a tree's statistics: float64 if a leaf has it, or else float32.

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
    """Whether a leaf is the gradient of an integer parameter, which holds no number."""
    return getattr(leaf, "dtype", None) == jax.dtypes.float0


def has_elements(leaf: ArrayLike) -> bool:
    """Whether a leaf holds a number at all."""
    return not is_float0(leaf) and jnp.size(leaf) > 0


def widened(x: ArrayLike, dtype: DTypeLike) -> jax.Array:
    """The elements in the dtype of the statistics, or in the complex one beside it."""
    if jnp.iscomplexobj(x):
        dtype = jnp.complex128 if dtype == jnp.float64 else jnp.complex64
    return jnp.asarray(x).astype(dtype)


def check_order(ord: float) -> float:
    """Returns the order of a norm; raises a ValueError if it is not in [1, inf]."""
    numbers = (int, float, np.integer, np.floating)
    if not isinstance(ord, numbers) or not ord >= 1:
        raise ValueError(
            f"ord must be a number in [1, inf], known before tracing, got {ord!r}."
        )
    # Powers that are integers are products.
    return int(ord) if float(ord).is_integer() else float(ord)


def _squares(x: jax.Array, k: jax.Array | None) -> jax.Array:
    """|k x|^2 of each element."""
    if jnp.iscomplexobj(x):
        return _squares(x.real, k) + _squares(x.imag, k)
    if k is not None:
        # XLA makes x^2 k^2 of (x k)^2 where x is known when compiling, but for the
        # minimum, which changes nothing. A barrier would prevent fusion under `vmap`.
        x = jnp.minimum(x * k, np.finfo(x.dtype).max)
    return x * x  # no square: its derivative takes 2 x, which may overflow


def _sum(x: jax.Array) -> jax.Array:
    """The sum of all elements; a few are added one by one, unless they are sharded.

    XLA:CPU (jaxlib 0.10) reduces pairs of 65,536 trials under `vmap` fourteen times
    more slowly than it adds them.
    """
    sharding = getattr(jax.typeof(x), "sharding", None)
    if x.ndim == 0 or x.size > 4 or any(getattr(sharding, "spec", ())):
        return jnp.sum(x)
    parts = list(x.reshape(-1))
    return sum(parts[1:], parts[0])


def magnitudes(x: jax.Array) -> jax.Array:
    """|x| of each element, with derivative 0 at 0, where that of `abs` is 1."""
    return jnp.abs(x) if jnp.iscomplexobj(x) else _magnitudes(x)


@jax.custom_jvp
def _magnitudes(x: jax.Array) -> jax.Array:
    # Not x * sign(x): XLA:CPU (jaxlib 0.10) writes signs to memory before it reduces.
    return jnp.abs(x)


@_magnitudes.defjvp
def _magnitudes_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    return _magnitudes(x), jnp.sign(x) * tangent


def reduced(
    parts: Sequence[jax.Array],
    axes: tuple[Axes, ...],
    apart: bool,
    *,
    largest: bool = False,
) -> jax.Array:
    """The sum (or the largest) of one number for each leaf, over devices.

    And over leaves, unless these stay apart, along axis 0. There is one collective for
    each set of axes, and not for each leaf.
    """

    def joined(numbers: list[jax.Array]) -> jax.Array:
        return jnp.max(jnp.stack(numbers)) if largest else sum(numbers[1:], numbers[0])

    whole: Callable[[jax.Array, Axes], jax.Array] = lax.pmax if largest else lax.psum
    groups: dict[Axes, list[int]] = {}
    for i, names in enumerate(axes):
        groups.setdefault(names, []).append(i)
    found = []
    for names, members in groups.items():
        group = [parts[i] for i in members]
        local = jnp.stack(group) if apart else joined(group)
        found.append(whole(local, names) if names else local)
    if not apart:
        return joined(found)
    order = np.argsort(np.concatenate(list(groups.values())))
    return found[0] if len(found) == 1 else jnp.concatenate(found)[order]


def _root_of_squares(total: Callable[[Any], Any]) -> ScaledNorm:
    """sqrt(total(1)), where total(k) are sums of the squares of the elements times k.

    Where a plain sum is huge (its square, in a derivative, would overflow too), or so
    small that squares may have been flushed to zero, it is recomputed with a power of
    two for k. One `cond` decides for all sums, since on a GPU each takes 17
    microseconds; only the sums leave it. Under `vmap` it becomes a second sum.
    """
    plain = total(None)
    k = jax.tree.map(_rescaling, plain)
    # No stack of flags: under `vmap` it would have to be written to memory.
    safe = jax.tree.reduce(
        jnp.logical_and, [jnp.all(x == 1) for x in jax.tree.leaves(k)], True
    )
    squares = lax.cond(safe, lambda: plain, lambda: total(k))
    return ScaledNorm(
        jax.tree.map(safe_root, squares), jax.tree.map(lambda x: 1 / x, k)
    )


def _rescaling(squares: jax.Array) -> jax.Array:
    """The power of two by which to multiply elements whose sum of squares this is."""
    exponent = np.finfo(squares.dtype).maxexp
    down = 2.0 ** -(5 * exponent // 8)  # the largest number to the 3/8 of its exponent
    k = jnp.where(squares > 2.0 ** (3 * exponent // 4), down, jnp.ones_like(squares))
    return jnp.where(squares < 2.0 ** -(exponent // 2), 1 / down, k)


def safe_root(x: jax.Array) -> jax.Array:
    """Square root whose derivative at zero is finite."""
    positive = x > 0
    root = jnp.sqrt(jnp.where(positive, x, 1))
    return jnp.where(positive, root, lax.stop_gradient(x))


def _power_norm(
    arrays: Sequence[jax.Array], axes: tuple[Axes, ...], ord: float, apart: bool
) -> ScaledNorm:
    """M (sum_i (|x_i| / M)^p)^(1/p) with M = max_i |x_i|, a constant of the scaling."""

    def each(x: jax.Array) -> list[jax.Array]:
        return list(x) if apart else [x] * len(arrays)

    total = partial(reduced, axes=axes, apart=apart)
    largest = [jnp.max(magnitudes(x)) for x in arrays]
    bound = total(lax.stop_gradient(largest), largest=True)
    if ord == math.inf:
        # Through sums, since a maximum over devices has no derivative: the shards
        # that attain it share it.
        pairs = list(zip(largest, each(bound), strict=True))
        attains = [(m == b).astype(m.dtype) for m, b in pairs]
        shares = [a * m for a, m in zip(attains, largest, strict=True)]
        return ScaledNorm(total(shares) / total(attains), jnp.ones_like(bound))
    unit = jnp.where((bound > 0) & jnp.isfinite(bound), bound, 1)
    # 1 / M may be subnormal, which devices flush to zero: to its middle range first.
    half = 2.0 ** (np.finfo(bound.dtype).maxexp // 2)
    k = jnp.where(unit > 1, 1 / half, half)
    scaled = zip(arrays, each(k), each(unit * k), strict=True)
    powers = total([jnp.sum((magnitudes(x) * k / m) ** ord) for x, k, m in scaled])
    positive = powers > 0
    root = jnp.where(positive, powers, 1) ** (1 / ord)
    value = jnp.where(positive, root, lax.stop_gradient(powers))
    # M itself as the unit might have no inverse: the power of two near to it, or 1.
    large, small = unit > half, unit < 1 / half
    power = jnp.where(large, half, jnp.ones_like(unit))
    power = jnp.where(small, 1 / half, power)
    return ScaledNorm(value * (unit / power), power)
