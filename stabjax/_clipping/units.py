"""Unit-wise clipping by the ratio of gradient norm to parameter norm."""

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
    """Clips the gradient norm of each unit to a multiple of its parameter norm (AGC).

        u_i = g_i min(1, clipping max(|w_i|, eps) / |g_i|)

    Units are the slices described in `stabjax.unitwise_norm`. Optax never divides by
    less than 1e-6, so it scales units with very small gradients too much. This function
    follows the formula exactly.

    Args:
      clipping: a number >= 0, a scalar array, a schedule (update count -> number), or a
        tree of these. See `stabjax.clip_by_global_norm`. **Traceable.**
      eps: minimum parameter norm, >= 0, which allows parameters initialized to zero to
        train. The default is the authors' value. **Traceable.**
      axis: the axes of a unit. If None, they are selected by rank, as in
        `stabjax.unitwise_norm`. Inside `shard_map`, this is the rank of the shard. Add
        it to `static_args` when using `optax.inject_hyperparams`. **Static.**
      axis_name: inside `shard_map`, the mesh axes that split units (see
        `stabjax.global_norm`), or `()` if each device has complete units. Required for
        sharded matrices because types do not show which array axis is sharded.
        **Static.**

    Returns:
      A transformation. Its `update` requires `params`. It is stateless unless
      `clipping` is a schedule. If an element of a unit is non-finite, the entire unit
      becomes NaN.

    Raises:
      ValueError: If `clipping` or `eps` is concrete and negative or NaN, if `params` is
        None, if `axis` is None and a leaf has more than 5 axes or is a shard that
        squeezes to a vector, or if `axis_name` is missing or contradicts the type of a
        leaf.
      TypeError: If `clipping` or `eps` is not a number, or a leaf is not an array.

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
            # inf * 0 would be NaN.
            limit = jnp.where(limit == jnp.inf, limit, limit * size)
            factor = clip_factor(norm, limit)
            bounded.append(apply_factor(g, factor))
            exceeded = exceeded | jnp.any(factor.exceeded)
        return bounded, any_shard(exceeded, group.axes)

    return clip_to_threshold("adaptive_grad_clip", thresholds, bound)


def unitwise_norm(
    x: Number, axis: Axis = None, *, axis_name: object = None
) -> jax.Array:
    """Computes the 2-norm of the unit that each element of an array belongs to.

        |x_i| = sqrt(sum_{j in unit(i)} |x_j|^2)

    A unit consists of the weights of one output. With `axis=None`, the unit is a whole
    scalar or vector (including arrays that squeeze to a vector), axis 0 of an array
    with 2 or 3 axes, axes (0, 1, 2) of an array with 4 axes (HWIO), and axes (0, 1, 2,
    3) of an array with 5 axes. The norm neither overflows nor underflows.

    Inside `shard_map`, the rank is that of the shard. Pass `axis` if a shard may have a
    dimension of size 1. With `axis=None`, a shard with two or more axes that squeezes
    to a vector raises an error, or is treated as a vector with `check_vma=False` and no
    `axis_name`.

    Args:
      x: an array. **Traceable.**
      axis: the axes of a unit. **Static.**
      axis_name: see `stabjax.adaptive_grad_clip`. **Static.**

    Returns:
      An array with the shape of `x`, in float32 or wider, containing the unit norm of
      each element.

    Raises:
      ValueError: If `axis` is None and `x` has more than 5 axes or is a shard that
        squeezes to a vector, or if `axis_name` is missing or contradicts the type of
        `x`.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> stabjax.unitwise_norm(jnp.array([[3.0, 1.0], [4.0, 0.0]])).tolist()
      [[5.0, 1.0], [5.0, 1.0]]

    References:
      Brock, De, Smith and Simonyan, High-performance large-scale image recognition
      without normalization, 2021, https://arxiv.org/abs/2102.06171
    """
    given = leaf_axes("x", x, axis_name, some=True) if axis_name is not None else [None]
    (norm,) = _unit_norms([x], axis, given)
    return jnp.broadcast_to(norm.product, jnp.shape(x))


def unitwise_clip(
    g_norm: Number, max_norm: Number, grad: Number, div_eps: Number = 1e-6
) -> jax.Array:
    """Rescales the units of a gradient to maximum norms.

        u_i = g_i where n_i < c_i, else g_i c_i / max(n_i, div_eps)

    The product is computed in float32 or wider and cast back. Optax has a function of
    the same name.

    Args:
      g_norm: n, the unit norm of each element, with the shape of `grad`. **Traceable.**
      max_norm: c, the maximum unit norm for each element, with the same shape.
        **Traceable.**
      grad: g, the gradient. **Traceable.**
      div_eps: minimum denominator, > 0. **Traceable.**

    Returns:
      The clipped gradient, with the dtype of `grad`. NaN where n is not finite or c is
      negative.

    Raises:
      ValueError: If the three shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> grad = jnp.array([3.0, 4.0])
      >>> norm = stabjax.unitwise_norm(grad)
      >>> stabjax.unitwise_clip(norm, jnp.full(2, 2.5), grad).tolist()
      [1.5, 2.0]

    References:
      Brock, De, Smith and Simonyan, High-performance large-scale image recognition
      without normalization, 2021, https://arxiv.org/abs/2102.06171
    """
    grad = jnp.asarray(grad)
    shapes = jnp.shape(g_norm), jnp.shape(max_norm), grad.shape
    if len(set(shapes)) > 1:
        listed = ", ".join(map(str, shapes))
        message = f"g_norm, max_norm and grad must have the same shape, got {listed}."
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
    """Computes unit norms of each array, summed over mapped axes that split units."""
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
            # A shard with one row may belong to a matrix or to a vector.
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
    """Returns the mapped axes that split the units of an array."""
    shown = varying_axes(x)
    units = x.ndim if unit is None else len(np.atleast_1d(unit))
    if units == x.ndim:  # every mapped axis splits a unit that is the whole array
        return tuple(sorted({*shown, *(given or ())}, key=str))
    if given is None and shown:
        raise ValueError(
            "axis_name must contain the mesh axes that split units, or be (), "
            f"got None for an array of shape {x.shape} that varies over "
            f"{sorted(map(str, shown))}."
        )
    return tuple(given or ())
