"""Clipping by unit: the norm of its gradient against that of its parameters."""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stabjax._arguments import check
from stabjax._axes import Axes, any_shard, leaf_axes, varying_axes
from stabjax._clipping.threshold import (
    Group,
    Threshold,
    Thresholds,
    check_params,
    clip_to_threshold,
)
from stabjax._norms import ScaledNorm, norm_dtype, norms_of_units
from stabjax._scaling import ClipFactor, apply_factor, as_scalar, clip_factor
from stabjax._types import Number

Axis: TypeAlias = int | tuple[int, ...] | None


def adaptive_grad_clip(
    clipping: Threshold,
    eps: Number = 1e-3,
    axis: Axis = None,
    *,
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Bounds the norm of each unit by a multiple of the norm of its parameters.

        u_i = g_i min(1, clipping max(|w_i|, eps) / |g_i|)

    for every unit i, the slices of `stabjax.unitwise_norm`. Optax divides by no less
    than 1e-6, so units with smaller gradients shrink too far; this obeys the formula.

    Args:
      clipping: a number >= 0, a scalar array, a schedule (count of updates -> number),
        or a tree of these: see `stabjax.clip_by_global_norm`. **Traceable.**
      eps: the smallest norm that parameters count with, >= 0, so that those that start
        at zero can learn; the default is the authors'. **Traceable.**
      axis: the axes of a unit; None: by rank, as in `stabjax.unitwise_norm`, which in
        `shard_map` is that of the shard. Belongs to `static_args` under
        `optax.inject_hyperparams`. **Static.**
      axis_name: inside `shard_map`, the mapped axes that split units, as in
        `stabjax.global_norm`; `()` if each device holds whole units. Types do not show
        which array axis is sharded, so it must be given where a matrix is. **Static.**

    Returns:
      A transformation whose `update` needs `params`; stateless unless `clipping` is a
      schedule. A unit with a non-finite element becomes NaN as a whole.

    Raises:
      ValueError: `clipping` or `eps` is concrete and negative or NaN; `params` are
        missing; `axis` is None and a leaf has more than 5 axes, or is a shard that
        squeezes to a vector; or `axis_name` is missing or contradicts the type of a
        leaf.
      TypeError: `clipping` or `eps` is not a number, or a leaf is not an array.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> params = jnp.array([[3.0, 0.0], [4.0, 1.0]])
      >>> grads = jnp.array([[1.0, 0.0], [0.0, 0.05]])
      >>> updates, _ = stabjax.adaptive_grad_clip(0.1).update(grads, None, params)
      >>> [[round(float(u), 3) for u in row] for row in updates]
      [[0.5, 0.0], [0.0, 0.05]]

    References:
      Brock, De, Smith and Simonyan, High-performance large-scale image recognition
      without normalization, 2021, https://arxiv.org/abs/2102.06171
    """
    check("eps", eps, ">= 0")
    thresholds = Thresholds("clipping", clipping, axis_name, some_axes=True)

    def bound(group: Group, clipping: Number) -> tuple[list[jax.Array], jax.Array]:
        params = check_params("adaptive_grad_clip", group)
        given = [None] * len(params) if axis_name is None else list(group.axes)
        norms = _unit_norms([*group.updates, *params], axis, given * 2)
        bounded, exceeded = [], jnp.zeros((), bool)
        pairs = zip(norms[: len(params)], norms[len(params) :], strict=True)
        for g, (norm, of_params) in zip(group.updates, pairs, strict=True):
            dtype = norm.value.dtype
            least = as_scalar("eps", eps, dtype)
            size = jnp.maximum(of_params.product.astype(dtype), least)
            limit = as_scalar("clipping", clipping, dtype)
            # Not NaN where clipping is inf and the size is 0.
            limit = jnp.where(limit == jnp.inf, limit, limit * size)
            factor = clip_factor(norm, limit)
            bounded.append(apply_factor(g, factor))
            exceeded = exceeded | jnp.any(factor.exceeded)
        return bounded, any_shard(exceeded, group.axes)

    return clip_to_threshold("adaptive_grad_clip", thresholds, bound)


def unitwise_norm(
    x: Number, axis: Axis = None, *, axis_name: object = None
) -> jax.Array:
    """2-norm of the unit that each element of an array belongs to.

        |x_i| = sqrt(sum_{j in unit(i)} |x_j|^2)

    A unit is what one output sees. With `axis=None` it is all of a scalar or a vector
    (or of what becomes one when squeezed), axis 0 of a matrix or an array of rank 3,
    axes (0, 1, 2) of rank 4 (HWIO), axes (0, 1, 2, 3) of rank 5. The norm neither
    overflows nor underflows.

    Inside `shard_map` the rank is that of the shard. Pass `axis` where a shard has a
    dimension of size 1: with None, a shard of rank >= 2 that squeezes to a vector
    raises, and counts as a vector with `check_vma=False` and no `axis_name`.

    Args:
      x: an array. **Traceable.**
      axis: the axes of a unit. **Static.**
      axis_name: as in `stabjax.adaptive_grad_clip`. **Static.**

    Returns:
      An array of the shape of `x`, float32 or wider, with each element's unit norm.

    Raises:
      ValueError: `axis` is None and `x` has more than 5 axes, or is a shard that
        squeezes to a vector; or `axis_name` is missing or contradicts the type of `x`.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> stabjax.unitwise_norm(jnp.array([[3.0, 1.0], [4.0, 0.0]])).tolist()
      [[5.0, 1.0], [5.0, 1.0]]

    References:
      Brock et al., 2021, https://arxiv.org/abs/2102.06171
    """
    given = leaf_axes("x", x, axis_name, some=True) if axis_name is not None else [None]
    (norm,) = _unit_norms([x], axis, given)
    return jnp.broadcast_to(norm.product, jnp.shape(x))


def unitwise_clip(
    g_norm: Number, max_norm: Number, grad: Number, div_eps: Number = 1e-6
) -> jax.Array:
    """Rescales the units of a gradient whose norm reaches their bound.

        u_i = g_i where n_i < c_i, else g_i c_i / max(n_i, div_eps)

    The product is taken in float32 or wider and cast back. Optax has the same name.

    Args:
      g_norm: n, the unit norm of each element, of the shape of `grad`. **Traceable.**
      max_norm: c, the bound of each element's unit, of the same shape. **Traceable.**
      grad: g, the gradient. **Traceable.**
      div_eps: the smallest divisor, > 0. **Traceable.**

    Returns:
      The bounded gradient, of the dtype of `grad`; NaN where n is not finite or c is
      negative.

    Raises:
      ValueError: the three shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> grad = jnp.array([3.0, 4.0])
      >>> norm = stabjax.unitwise_norm(grad)
      >>> stabjax.unitwise_clip(norm, jnp.full(2, 2.5), grad).tolist()
      [1.5, 2.0]

    References:
      Brock et al., 2021, https://arxiv.org/abs/2102.06171
    """
    grad = jnp.asarray(grad)
    shapes = jnp.shape(g_norm), jnp.shape(max_norm), grad.shape
    if len(set(shapes)) > 1:
        listed = ", ".join(map(str, shapes))
        message = f"g_norm, max_norm and grad must have one shape, got {listed}."
        raise ValueError(message)
    dtype = norm_dtype([grad])
    norm, limit = jnp.asarray(g_norm, dtype), jnp.asarray(max_norm, dtype)
    valid, exceeded = jnp.isfinite(norm) & (limit >= 0), norm >= limit
    ratio = limit / jnp.maximum(norm, jnp.asarray(div_eps, dtype))
    factor = jnp.where(valid, jnp.where(exceeded, ratio, 1), jnp.nan)
    clipped: jax.Array = apply_factor(
        grad, ClipFactor(factor, jnp.ones_like(factor), exceeded)
    )
    return clipped


def _unit_norms(
    arrays: Sequence[Number], axis: Axis, given: Sequence[Axes | None]
) -> list[ScaledNorm]:
    """The norms of the units of each array, summed over mapped axes that split them."""
    known = [jnp.asarray(x) for x in arrays]
    units = tuple(_unit(x, axis, names) for x, names in zip(known, given, strict=True))
    axes = tuple(map(_axes_of_unit, known, units, given))
    norms: list[ScaledNorm] = norms_of_units(known, units, axes)
    return norms


def _unit(x: jax.Array, axis: Axis, given: Axes | None) -> Axis:
    if axis is not None or x.ndim < 2:
        return axis
    if jnp.squeeze(x).ndim < 2:
        if given or varying_axes(x):
            # A shard of one row may be of a matrix, or of a vector of that shape.
            raise ValueError(
                f"axis must be given for a sharded array of shape {x.shape}, got None."
            )
        return None
    axes: dict[int, Axis] = {2: 0, 3: 0, 4: (0, 1, 2), 5: (0, 1, 2, 3)}
    if x.ndim not in axes:
        raise ValueError(
            "axis must be given for arrays with more than 5 axes, "
            f"got None for shape {x.shape}."
        )
    return axes[x.ndim]


def _axes_of_unit(x: jax.Array, unit: Axis, given: Axes | None) -> Axes:
    """The mapped axes that split the units of an array."""
    shown = varying_axes(x)
    units = x.ndim if unit is None else len(np.atleast_1d(unit))
    if units == x.ndim:  # the whole array, so any axis splits it
        return tuple(sorted({*shown, *(given or ())}, key=str))
    if given is None and shown:
        raise ValueError(
            "axis_name must name the mesh axes that split units, or be () if none do, "
            f"got None for an array of shape {x.shape} that varies over "
            f"{sorted(map(str, shown))}."
        )
    return tuple(given or ())
