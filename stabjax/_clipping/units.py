"""A bound for each unit: the ratio of its gradient's norm to that of its weights."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from stabjax._clipping.threshold import (
    Threshold,
    bounded_by,
    check_threshold,
    map_bounded,
)
from stabjax._norms import ScaledNorm, norm_dtype, unit_norms
from stabjax._scaling import ClipFactor, apply_factor, as_scalar, clip_factor

Axis = int | tuple[int, ...] | None


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
        least = jnp.maximum(norm_w.astype(dtype), as_scalar("eps", eps, dtype))
        by = clip_factor(norm, as_scalar("clipping", limit, dtype) * least)
        return apply_factor(g, by), jnp.any(by.exceeded)

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
    by = ClipFactor(factor, jnp.ones_like(factor), exceeded)
    clipped: jax.Array = apply_factor(grad, by)
    return clipped


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
