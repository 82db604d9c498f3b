"""Smooth gradient clipping and gradient normalization."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from stabjax._arguments import check, check_choice
from stabjax._clipping.threshold import Group, Threshold, Thresholds, clip_to_threshold
from stabjax._norms import ScaledNorm, norm_of_leaves, scaled_norm
from stabjax._scaling import (
    ClipFactor,
    apply_factor,
    as_scalar,
    clip_factor,
    safe_ratio,
)
from stabjax._types import Number


def smooth_clip_by_global_norm(
    max_norm: Threshold,
    *,
    kind: Literal["rational", "sqrt"] = "rational",
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Rescales updates with a smooth approximation to clipping by global norm.

        u = g / (1 + |g|_2 / max_norm)              if kind is "rational"
        u = g / sqrt(1 + (|g|_2 / max_norm)^2)      if kind is "sqrt"

    Updates are almost unchanged for norms far below `max_norm`, and the new norm
    approaches `max_norm` for norms far above. The factor of "rational" is at least half
    the factor of hard clipping.

    Args:
      max_norm: a number >= 0, a scalar array (inf: the identity), a schedule (update
        count -> number), or a tree of these. See `stabjax.clip_by_global_norm`.
        **Traceable.**
      kind: the scaling function. **Static.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation. It is stateless unless `max_norm` is a schedule. A non-finite
      gradient turns every element into NaN.

    Raises:
      ValueError: If `max_norm` is concrete and negative or NaN, or not a scalar, if
        `kind` is unknown, or if `axis_name` contradicts the type of a leaf.
      TypeError: If `max_norm` is not a number, or a leaf is not an array.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.smooth_clip_by_global_norm(1.0)
      >>> for norm in (0.01, 1.0, 99.0):
      ...     updates, _ = clipping.update(jnp.array([0.0, norm]), None)
      ...     print(round(float(updates[1]), 4))
      0.0099
      0.5
      0.99

    References:
      Zhang, He, Sra and Jadbabaie, Why gradient clipping accelerates training, 2020,
      https://arxiv.org/abs/1905.11881
    """
    check_choice("kind", kind, ("rational", "sqrt"))

    def bound(group: Group, max_norm: Number) -> tuple[list[jax.Array], jax.Array]:
        norm = norm_of_leaves(group.updates, group.axes, 2, False)
        limit = as_scalar("max_norm", max_norm, norm.value.dtype)
        factor = clip_factor(norm, _approached(norm.product, limit, kind))
        return [apply_factor(g, factor) for g in group.updates], factor.exceeded

    thresholds = Thresholds("max_norm", max_norm, axis_name)
    return clip_to_threshold("smooth_clip_by_global_norm", thresholds, bound)


def normalize_by_update_norm(
    scale_factor: Number = 1.0, eps: Number = 1e-6, *, axis_name: object = None
) -> optax.GradientTransformation:
    """Rescales updates to global norm `scale_factor` (normalized gradient descent).

        u = scale_factor g / (|g|_2 + eps)

    The global norm is computed in float32 or wider and does not overflow. Zero
    gradients stay zero, even with `eps=0`. Optax has a transformation of the same name.

    Args:
      scale_factor: any number. **Traceable.**
      eps: a number >= 0. **Traceable.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A stateless transformation. A non-finite gradient turns every element into NaN. So
      does a traced `eps` that is negative.

    Raises:
      ValueError: If `eps` is concrete and negative or NaN, if an argument is not a
        scalar, or if `axis_name` contradicts the type of a leaf.
      TypeError: If an argument is not a number, or a leaf is not an array.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> updates, _ = stabjax.normalize_by_update_norm().update(
      ...     jnp.array([3e30, 4e30]), None
      ... )
      >>> [round(float(u), 4) for u in updates]
      [0.6, 0.8]

    References:
      Nesterov, Introductory lectures on convex optimization, 2004, section 3.2.3,
      https://doi.org/10.1007/978-1-4419-8853-9
    """
    check("scale_factor", scale_factor, "in [-inf, inf]")
    check("eps", eps, ">= 0")

    def init_fn(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        norm = scaled_norm(updates, axis_name=axis_name)
        dtype = norm.value.dtype
        factor = _normalization(
            norm,
            as_scalar("scale_factor", scale_factor, dtype),
            as_scalar("eps", eps, dtype),
        )
        return jax.tree.map(lambda g: apply_factor(g, factor), updates), state

    return optax.GradientTransformation(init_fn, update_fn)


def _approached(norm: jax.Array, max_norm: jax.Array, kind: str) -> jax.Array:
    """Computes n / (1 + n / c) or n / sqrt(1 + (n / c)^2), symmetric in n and c."""
    low, high = jnp.minimum(norm, max_norm), jnp.maximum(norm, max_norm)
    share = safe_ratio(low, jnp.where((high > 0) & (high < jnp.inf), high, 1))
    share = jnp.where(high < jnp.inf, share, 0)
    return low / (1 + share if kind == "rational" else jnp.sqrt(1 + share * share))


def _normalization(norm: ScaledNorm, factor: jax.Array, eps: jax.Array) -> ClipFactor:
    """Splits factor / (norm + eps) into two factors that do not overflow."""
    k = 1 / norm.unit
    divisor = norm.value + eps * k
    valid = jnp.isfinite(norm.value) & (eps >= 0)
    inverse = jnp.where(divisor > 0, 1 / jnp.where(divisor > 0, divisor, 1), 0)
    inverse = jnp.where(valid, inverse, jnp.nan)
    return ClipFactor(first=k, second=inverse * factor, exceeded=valid)
