"""Bounds whose threshold is given: element-wise, global, per block, per unit."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from stabjax._clipping.threshold import (
    Shrinkage,
    Threshold,
    bounded_by,
    cast_back,
    check_threshold,
    map_bounded,
    scalar,
    shrinkage,
    shrunk,
)
from stabjax._norms import (
    AxisName,
    ScaledNorm,
    check_order,
    norm_dtype,
    scaled_norm,
    unit_norms,
)

Axis = int | tuple[int, ...] | None


def clip(max_delta: Threshold) -> optax.GradientTransformation:
    r"""Clips every entry of the updates to ``[-max_delta, max_delta]``.

    :math:`u_i = \min(\max(g_i, -\delta), \delta)`. The one bound here that makes an
    infinite entry finite, as in Optax; NaN stays NaN.

    Args:
      max_delta: :math:`\delta \ge 0`: a number, an array that broadcasts with every
        leaf, or a schedule (count of updates -> number); traceable.

    Returns:
      A transformation; stateless unless ``max_delta`` is a schedule. A negative or NaN
      traced threshold gives NaN.

    Raises:
      ValueError: if ``max_delta`` is concrete and negative or NaN.
      TypeError: if it is no number, or a leaf is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> updates, _ = stabjax.clip(1.0).update(jnp.array([3.0, -4.0, 0.5]), None)
      >>> updates.tolist()
      [1.0, -1.0, 0.5]

    Source: Optax has the same name; `clip_grad_value_` in PyTorch.
    """

    def bound(
        updates: optax.Updates, params: optax.Params | None, limit: ArrayLike
    ) -> tuple[optax.Updates, jax.Array]:
        del params
        return map_bounded(lambda g: _clip_entries(g, jnp.asarray(limit)), updates)

    return bounded_by(max_delta, bound, name="clip", argument="max_delta")


def clip_by_global_norm(
    max_norm: Threshold, *, ord: float | None = None, axis_name: AxisName | None = None
) -> optax.GradientTransformation:
    r"""Rescales the updates so that their global norm is at most ``max_norm``.

    :math:`u = g \cdot \min(1, c / \|g\|_p)`, the norm taken over all leaves together.
    Right for every finite gradient in every dtype, even where the norm itself exceeds
    it; below the threshold the updates are unchanged, bit for bit. The product is
    taken in float32 or wider. The derivative at a zero gradient is the identity's.

    Args:
      max_norm: :math:`c \ge 0`: a number, a scalar array (inf: never clip), or a
        schedule (count of updates -> number); traceable. Or a tree of numbers, one for
        each group of parameters, of which it is a prefix (``{"body": 1.0, "head":
        0.1}``): each group is then clipped by the norm of its own leaves. The other
        bounds by a given threshold take such trees too.
      ord: :math:`p`, the order of the norm, from 1 to inf (PyTorch's ``norm_type``);
        static (``static_args`` under ``optax.inject_hyperparams``). None: 2.
      axis_name: name of the mapped axis of ``shard_map`` along which every leaf is
        sharded, if any; static.

    Returns:
      A transformation; stateless unless ``max_norm`` is a schedule, and then its
      threshold, whether it clipped and the share of updates it clipped are metrics. A
      non-finite gradient gives NaN in every entry (in Optax zeros beside the NaN), and
      so does a traced threshold that is negative or NaN.

    Raises:
      ValueError: if ``max_norm`` is concrete and negative or NaN, or no scalar, or if
        ``ord`` is not a number from 1 to inf.
      TypeError: if ``max_norm`` is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_global_norm(1.0)
      >>> updates, _ = clipping.update({"w": jnp.array([3e30, 4e30])}, None)
      >>> [round(float(u), 4) for u in updates["w"]]
      [0.6, 0.8]

    Source: Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural
    networks, 2013.
    """
    order = check_order(2 if ord is None else ord)

    def bound(
        updates: optax.Updates, params: optax.Params | None, limit: ArrayLike
    ) -> tuple[optax.Updates, jax.Array]:
        del params
        norm = scaled_norm(updates, order, axis_name=axis_name)
        by = shrinkage(norm, scalar("max_norm", limit, norm.value.dtype))
        return jax.tree.map(lambda g: shrunk(g, by), updates), by.exceeded

    return bounded_by(max_norm, bound, name="clip_by_global_norm", argument="max_norm")


def clip_by_block_norm(max_norm: Threshold) -> optax.GradientTransformation:
    r"""Rescales each leaf of the updates so that its norm is at most ``max_norm``.

    :math:`u_l = g_l \cdot \min(1, c / \|g_l\|_2)` for every leaf :math:`l`, with the
    care of :func:`stabjax.clip_by_global_norm`.

    Args:
      max_norm: :math:`c \ge 0`: a number, a scalar array, or a schedule (count of
        updates -> number); traceable.

    Returns:
      A transformation; stateless unless ``max_norm`` is a schedule. A leaf with a
      non-finite entry becomes NaN as a whole.

    Raises:
      ValueError: if ``max_norm`` is concrete and negative or NaN, or no scalar.
      TypeError: if it is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_block_norm(2.5)
      >>> updates, _ = clipping.update([jnp.array([3.0, 4.0]), jnp.array(1.0)], None)
      >>> [u.tolist() for u in updates]
      [[1.5, 2.0], 1.0]

    Source: `tf.clip_by_norm` of TensorFlow.
    """
    return _clip_blocks(max_norm, lambda leaf: 1.0, "clip_by_block_norm", "max_norm")


def clip_by_block_rms(threshold: Threshold) -> optax.GradientTransformation:
    r"""Rescales each leaf so that the root mean square of its entries is bounded.

    :math:`u_l = g_l / \max(1, \mathrm{rms}(g_l) / d)`, with :math:`\mathrm{rms}(g) =
    \|g\|_2 / \sqrt{n}` over the :math:`n` entries of a leaf. After
    ``optax.scale_by_factored_rms`` and before the learning rate, with 1, it is the
    update clipping of Adafactor.

    Args:
      threshold: :math:`d \ge 0`: a number, a scalar array, or a schedule (count of
        updates -> number); traceable.

    Returns:
      A transformation; stateless unless ``threshold`` is a schedule. A leaf with a
      non-finite entry becomes NaN as a whole.

    Raises:
      ValueError: if ``threshold`` is concrete and negative or NaN, or no scalar.
      TypeError: if it is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_block_rms(1.0)
      >>> updates, _ = clipping.update(jnp.array([3.0, 4.0]), None)
      >>> [round(float(u), 4) for u in updates]
      [0.8485, 1.1314]

    Source: Shazeer, Stern, Adafactor, 2018.
    """
    return _clip_blocks(
        threshold,
        lambda leaf: math.sqrt(jnp.size(leaf)),
        "clip_by_block_rms",
        "threshold",
    )


def adaptive_grad_clip(
    clipping: Threshold, eps: ArrayLike = 1e-3, axis: Axis = None
) -> optax.GradientTransformation:
    r"""Bounds the norm of each unit by a multiple of the norm of its parameters.

    :math:`u_i = g_i \cdot \min(1, \lambda \max(\|w_i\|, \epsilon) / \|g_i\|)` for every
    unit :math:`i`, the slices of :func:`stabjax.unitwise_norm`.

    Args:
      clipping: :math:`\lambda \ge 0`: a number, a scalar array, or a schedule (count
        of updates -> number); traceable.
      eps: :math:`\epsilon`, the least norm that parameters count with, so that those
        that start at zero can learn; traceable.
      axis: the axes of a unit, static (``static_args`` under
        ``optax.inject_hyperparams``); None: by rank, as in ``unitwise_norm``.

    Returns:
      A transformation whose ``update`` needs ``params``; stateless unless ``clipping``
      is a schedule. A unit with a non-finite entry becomes NaN as a whole. Where
      Optax divides by no less than 1e-6, so that units with smaller gradients shrink
      too far, this obeys the formula.

    Raises:
      ValueError: if ``clipping`` or ``eps`` is concrete and negative or NaN, if
        ``params`` are missing, or if ``axis`` is None and a leaf has more than 5 axes.
      TypeError: if ``clipping`` or ``eps`` is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> params = jnp.array([[3.0, 0.0], [4.0, 1.0]])
      >>> grads = jnp.array([[1.0, 0.0], [0.0, 0.05]])
      >>> updates, _ = stabjax.adaptive_grad_clip(0.1).update(grads, None, params)
      >>> [[round(float(u), 3) for u in row] for row in updates]
      [[0.5, 0.0], [0.0, 0.05]]

    Source: Brock, De, Smith, Simonyan, High-performance large-scale image recognition
    without normalization, 2021.
    """
    eps = check_threshold("eps", eps)

    def bound_unit(
        g: ArrayLike, w: ArrayLike, limit: ArrayLike
    ) -> tuple[jax.Array, jax.Array]:
        norm, norm_w = _unit_norms(g, axis), _unit_norms(w, axis).product
        dtype = norm.value.dtype
        least = jnp.maximum(norm_w.astype(dtype), scalar("eps", eps, dtype))
        by = shrinkage(norm, scalar("clipping", limit, dtype) * least)
        return shrunk(g, by), jnp.any(by.exceeded)

    def bound(
        updates: optax.Updates, params: optax.Params | None, limit: ArrayLike
    ) -> tuple[optax.Updates, jax.Array]:
        if params is None:
            raise ValueError(
                "adaptive_grad_clip compares updates with params: "
                "call update(updates, state, params)"
            )
        return map_bounded(lambda g, w: bound_unit(g, w, limit), updates, params)

    return bounded_by(clipping, bound, name="adaptive_grad_clip", argument="clipping")


def unitwise_norm(x: ArrayLike, axis: Axis = None) -> jax.Array:
    r"""2-norm of the unit that each entry of an array belongs to.

    :math:`\|x_i\| = \sqrt{\sum_{j \in \mathrm{unit}(i)} |x_j|^2}`. A unit is what one
    output sees: with ``axis=None`` all of a scalar or a vector (or of what becomes one
    when squeezed), axis 0 of a matrix or an array of rank 3, axes (0, 1, 2) of rank 4
    (HWIO), axes (0, 1, 2, 3) of rank 5. It neither overflows nor underflows.

    Args:
      x: an array.
      axis: the axes of a unit; static.

    Returns:
      An array of the shape of ``x``, float32 or wider, with each entry's unit norm.

    Raises:
      ValueError: if ``axis`` is None and ``x`` has more than 5 axes.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> stabjax.unitwise_norm(jnp.array([[3.0, 1.0], [4.0, 0.0]])).tolist()
      [[5.0, 1.0], [5.0, 1.0]]

    Source: Brock, De, Smith, Simonyan, 2021.
    """
    return jnp.broadcast_to(_unit_norms(x, axis).product, jnp.shape(x))


def unitwise_clip(
    g_norm: ArrayLike,
    max_norm: ArrayLike,
    grad: ArrayLike,
    div_eps: ArrayLike = 1e-6,
) -> jax.Array:
    r"""Rescales the units of a gradient whose norm exceeds their bound.

    :math:`u_i = g_i` where :math:`n_i < c_i`, else :math:`g_i c_i / \max(n_i,
    \epsilon)`; the product in float32 or wider, cast back.

    Args:
      g_norm: :math:`n`, the unit norm of each entry, of the shape of ``grad``.
      max_norm: :math:`c`, the bound of each entry's unit, of the same shape.
      grad: :math:`g`, the gradient.
      div_eps: :math:`\epsilon`, the least divisor; traceable.

    Returns:
      The bounded gradient, of the dtype of ``grad``; NaN where :math:`n` is not finite
      or :math:`c` is negative.

    Raises:
      ValueError: if the three shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> grad = jnp.array([3.0, 4.0])
      >>> norm = stabjax.unitwise_norm(grad)
      >>> stabjax.unitwise_clip(norm, jnp.full(2, 2.5), grad).tolist()
      [1.5, 2.0]

    Source: Brock, De, Smith, Simonyan, 2021; Optax has the same name.
    """
    grad = jnp.asarray(grad)
    shapes = jnp.shape(g_norm), jnp.shape(max_norm), grad.shape
    if len(set(shapes)) > 1:
        raise ValueError(
            "g_norm, max_norm and grad must have one shape, got "
            + ", ".join(map(str, shapes))
        )
    dtype = norm_dtype([grad])
    norm, limit = jnp.asarray(g_norm, dtype), jnp.asarray(max_norm, dtype)
    valid, exceeded = jnp.isfinite(norm) & (limit >= 0), norm >= limit
    ratio = limit / jnp.maximum(norm, jnp.asarray(div_eps, dtype))
    factor = jnp.where(valid, jnp.where(exceeded, ratio, 1), jnp.nan)
    by = Shrinkage(factor, jnp.ones_like(factor), exceeded)
    clipped: jax.Array = shrunk(grad, by)
    return clipped


@partial(jax.jit, inline=True)
def _clip_entries(g: ArrayLike, limit: jax.Array) -> tuple[jax.Array, jax.Array]:
    g = jnp.asarray(g)
    if jnp.iscomplexobj(g):
        raise TypeError(
            f"clip: complex entries have no order, got a leaf of {g.dtype}; "
            "clip_by_global_norm and its kin bound them"
        )
    wide = g.astype(norm_dtype([g]))
    limit = jnp.broadcast_to(limit.astype(wide.dtype), g.shape)
    limit = jnp.where(limit >= 0, limit, jnp.nan)
    bounded = cast_back(jnp.clip(wide, -limit, limit), g.dtype)
    return bounded, jnp.any(abs(wide) > limit)


def _clip_blocks(
    threshold: Threshold, norm_of_one: Callable[[Any], float], name: str, argument: str
) -> optax.GradientTransformation:
    """Bounds the norm of each leaf by the threshold times `norm_of_one(leaf)`."""

    def bound_block(g: ArrayLike, limit: ArrayLike) -> tuple[jax.Array, jax.Array]:
        norm = scaled_norm(g)
        bound = scalar(argument, limit, norm.value.dtype) * norm_of_one(g)
        by = shrinkage(norm, bound)
        return shrunk(g, by), by.exceeded

    def bound(
        updates: optax.Updates, params: optax.Params | None, limit: ArrayLike
    ) -> tuple[optax.Updates, jax.Array]:
        del params
        return map_bounded(lambda g: bound_block(g, limit), updates)

    return bounded_by(threshold, bound, name=name, argument=argument)


def _unit_norms(x: ArrayLike, axis: Axis) -> ScaledNorm:
    x = jnp.asarray(x)
    if axis is None and jnp.squeeze(x).ndim > 1:
        axes: dict[int, Axis] = {2: 0, 3: 0, 4: (0, 1, 2), 5: (0, 1, 2, 3)}
        if x.ndim not in axes:
            raise ValueError(
                "axis must say which axes make up a unit of an array of shape "
                f"{x.shape}: without it the rank must be at most 5"
            )
        axis = axes[x.ndim]
    norms: ScaledNorm = unit_norms(x, axis)
    return norms
