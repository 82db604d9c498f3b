"""Norms of trees that neither overflow nor underflow, at the cost of one read."""

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

AxisName = Hashable


class ScaledNorm(NamedTuple):
    """A norm, `value * unit`, whose two parts are finite where the product is not."""

    value: jax.Array
    unit: jax.Array  # a positive constant: no derivative flows through it

    @property
    def product(self) -> jax.Array:
        """The norm itself: inf where it exceeds the dtype."""
        return self.value * self.unit


def global_norm(
    tree: Any, ord: float = 2, *, axis_name: AxisName | None = None
) -> jax.Array:
    r"""Norm of all the entries of a tree together, right for every finite input.

    :math:`\|g\|_p = (\sum_i |g_i|^p)^{1/p}`, and :math:`\max_i |g_i|` for
    ``ord=inf``. Squares are summed in float32 or wider; where a sum leaves the range
    of safe squares it is taken again with rescaled entries. So the ordinary 2-norm
    reads the tree once (other orders twice), and neither overflows nor underflows. The
    derivative at zero is zero.

    Args:
      tree: any tree of arrays and scalars, real or complex, of any mixture of dtypes;
        ``None`` leaves count for nothing and an empty tree has norm 0.
      ord: order of the norm, from 1 to inf; static.
      axis_name: name of the mapped axis (or axes) of ``shard_map`` or ``vmap`` along
        which every leaf is taken to be sharded; static.

    Returns:
      A scalar, float32, or float64 if a leaf is. Inf only if the norm itself exceeds
      that dtype or an entry is inf; NaN if an entry is NaN.

    Raises:
      ValueError: if ``ord`` is not a number from 1 to inf.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> float(stabjax.global_norm({"a": jnp.array([3.0, 0.0]), "b": 4.0}))
      5.0
      >>> float(stabjax.global_norm(jnp.full(4, 60_000, jnp.float16)))
      120000.0
      >>> float(stabjax.global_norm([3.0, -4.0], ord=1))
      7.0

    Source: Blue, A portable Fortran program to find the Euclidean norm, 1978.
    """
    check_order(ord)
    norm: jax.Array = scaled_norm(tree, ord, axis_name=axis_name).product
    return norm


def leaf_norms(tree: Any, ord: float = 2, *, axis_name: AxisName | None = None) -> Any:
    r"""Norm of each leaf of a tree by itself.

    :math:`\|g_l\|_p` for every leaf :math:`l`, with the arguments and the numerical
    care of :func:`stabjax.global_norm`.

    Args:
      tree: any tree of arrays and scalars.
      ord: order of the norm, from 1 to inf; static.
      axis_name: name of the mapped axis along which every leaf is sharded; static.

    Returns:
      A tree of the same structure that holds a scalar for each leaf.

    Raises:
      ValueError: if ``ord`` is not a number from 1 to inf.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> norms = stabjax.leaf_norms({"b": jnp.array(-2.0), "w": jnp.array([3.0, 4.0])})
      >>> {name: float(norm) for name, norm in norms.items()}
      {'b': 2.0, 'w': 5.0}

    Source: Blue, A portable Fortran program to find the Euclidean norm, 1978.
    """
    check_order(ord)
    return jax.tree.map(
        lambda x: scaled_norm(x, ord, axis_name=axis_name).product, tree
    )


# Jitted, for otherwise each call outside of `jit` would compile its `cond` anew.
@partial(jax.jit, static_argnames=("ord", "axis_name"), inline=True)
def scaled_norm(
    tree: Any, ord: float = 2, *, axis_name: AxisName | None = None
) -> ScaledNorm:
    """The norm of a whole tree as value and unit; see :func:`global_norm`."""
    leaves = jax.tree.leaves(tree)
    dtype = norm_dtype(leaves)
    leaves = [leaf for leaf in leaves if not is_float0(leaf) and jnp.size(leaf)]
    if not leaves:
        return ScaledNorm(jnp.zeros((), dtype), jnp.ones((), dtype))

    def total(term: Callable[[jax.Array], jax.Array]) -> jax.Array:
        sums = [jnp.sum(term(widened(leaf, dtype))) for leaf in leaves]
        return _psum(sum(sums[1:], sums[0]), axis_name)

    if ord == 2:
        return _root_of_squares(lambda k: total(lambda x: _squares(x, k)), dtype)
    largest = [jnp.max(magnitudes(widened(leaf, dtype))) for leaf in leaves]
    return _power_norm(total, jnp.max(jnp.stack(largest)), ord, axis_name)


@partial(jax.jit, static_argnames="axis", inline=True)
def unit_norms(x: jax.Array, axis: int | tuple[int, ...] | None) -> ScaledNorm:
    """2-norms of the slices of one array along `axis`; its dimensions are kept."""
    dtype = norm_dtype([x])
    wide = widened(x, dtype)
    return _root_of_squares(
        lambda k: jnp.sum(_squares(wide, k), axis=axis, keepdims=True), dtype
    )


def as_scaled(norm: jax.Array) -> ScaledNorm:
    """A known norm, with a unit that keeps the square of its value in range."""
    exponent = np.finfo(norm.dtype).maxexp
    down, large = 2.0 ** -(5 * exponent // 8), 2.0 ** (3 * exponent // 8)
    k = jnp.where(norm > large, down, jnp.ones_like(norm))
    k = lax.stop_gradient(jnp.where(norm < 1 / large, 1 / down, k))
    return ScaledNorm(norm * k, 1 / k)


def norm_dtype(leaves: Sequence[object]) -> np.dtype:
    """The dtype of a tree's statistics: float64 if a leaf has it, or else float32.

    Leaves may be arrays, Python numbers or `jax.ShapeDtypeStruct`.
    """
    double = (jnp.float64, jnp.complex128)
    found = any(
        jnp.result_type(leaf) in double for leaf in leaves if not is_float0(leaf)
    )
    return np.dtype(np.float64 if found else np.float32)


def is_float0(leaf: object) -> TypeGuard[jax.Array]:
    """Whether a leaf is the gradient of an integer parameter, which holds no number."""
    return getattr(leaf, "dtype", None) == jax.dtypes.float0


def widened(x: ArrayLike, dtype: Any) -> jax.Array:
    """The entries in the dtype of the statistics, complex ones in its complex kin."""
    if jnp.iscomplexobj(x):
        dtype = jnp.complex128 if dtype == jnp.float64 else jnp.complex64
    return jnp.asarray(x).astype(dtype)


def check_order(ord: Any) -> float:
    """The order of a norm, if it is one."""
    numbers = (int, float, np.integer, np.floating)
    if not isinstance(ord, numbers) or not ord >= 1:
        raise ValueError(
            f"ord must be a number from 1 to inf, known when tracing; got {ord!r}"
        )
    # Powers that are integers are products.
    return int(ord) if float(ord).is_integer() else float(ord)


def _squares(x: jax.Array, k: jax.Array | None) -> jax.Array:
    """|k x|^2, entry by entry."""
    if jnp.iscomplexobj(x):
        return _squares(x.real, k) + _squares(x.imag, k)
    if k is not None:
        # Unseen by XLA, which makes x^2 k^2 of this where x is known when compiling.
        x, k = lax.optimization_barrier((x, k))
        x = x * k
    return x * x  # no square: its derivative takes 2 x, which may overflow


def magnitudes(x: jax.Array) -> jax.Array:
    """|x|, entry by entry, with derivative 0 at 0, where that of `abs` is 1."""
    return jnp.abs(x) if jnp.iscomplexobj(x) else x * jnp.sign(x)


def _psum(x: jax.Array, axis_name: AxisName | None) -> jax.Array:
    return x if axis_name is None else lax.psum(x, axis_name)


def _root_of_squares(
    total: Callable[[jax.Array | None], jax.Array], dtype: Any
) -> ScaledNorm:
    """sqrt(total(1)), where total(k) sums the squares of the entries times k.

    Where the plain sum is huge (its square, in a derivative, would overflow too), or so
    small that squares may have been flushed to zero, it is taken again with a power of
    two for k. Only scalars leave the `cond`, which makes it free; under `vmap` it
    becomes a second sum.
    """
    exponent = np.finfo(dtype).maxexp
    down = 2.0 ** -(5 * exponent // 8)  # the largest number to the 3/8 of its exponent
    largest, smallest = 2.0 ** (3 * exponent // 4), 2.0 ** -(exponent // 2)

    plain = total(None)
    k = jnp.ones_like(plain)
    k = jnp.where(plain > largest, down, k)
    k = jnp.where(plain < smallest, 1 / down, k)
    squares = lax.cond(jnp.all(k == 1), lambda: plain, lambda: total(k))
    return ScaledNorm(safe_root(squares), 1 / k)


def safe_root(x: jax.Array) -> jax.Array:
    """Square root whose derivative at zero is finite."""
    positive = x > 0
    root = jnp.sqrt(jnp.where(positive, x, 1))
    return jnp.where(positive, root, lax.stop_gradient(x))


def _power_norm(
    total: Callable[[Callable[[jax.Array], jax.Array]], jax.Array],
    largest: jax.Array,
    ord: float,
    axis_name: AxisName | None,
) -> ScaledNorm:
    """M (sum_i (|x_i| / M)^p)^(1/p) with M = max_i |x_i|, a constant of the scaling."""
    bound = lax.stop_gradient(largest)
    if axis_name is not None:
        bound = lax.pmax(bound, axis_name)
    if ord == math.inf:
        # Through sums, since a maximum over devices has no derivative: the shards
        # that attain it share it.
        attains = (largest == bound).astype(largest.dtype)
        shared = _psum(attains * largest, axis_name) / _psum(attains, axis_name)
        return ScaledNorm(shared, jnp.ones_like(bound))
    unit = jnp.where((bound > 0) & jnp.isfinite(bound), bound, 1)
    # 1 / M may be subnormal, which devices flush to zero: to its middle range first.
    half = 2.0 ** (np.finfo(bound.dtype).maxexp // 2)
    k = jnp.where(unit > 1, 1 / half, half)
    powers = total(lambda x: (magnitudes(x) * k / (unit * k)) ** ord)
    positive = powers > 0
    root = jnp.where(positive, powers, 1) ** (1 / ord)
    value = jnp.where(positive, root, lax.stop_gradient(powers))
    # M itself as the unit might have no inverse: the power of two near to it, or 1.
    exponent = np.finfo(unit.dtype).maxexp
    large, small = unit > 2.0 ** (exponent // 2), unit < 2.0 ** -(exponent // 2)
    power = jnp.where(large, 2.0 ** (exponent // 2), jnp.ones_like(unit))
    power = jnp.where(small, 2.0 ** -(exponent // 2), power)
    return ScaledNorm(value * (unit / power), power)
