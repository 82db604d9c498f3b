"""Rescaling by a smooth function of the global norm, with no threshold to exceed."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from stabjax._clipping.threshold import Threshold, bounded_by, check_between
from stabjax._norms import ScaledNorm, scaled_norm
from stabjax._scaling import (
    ClipFactor,
    apply_factor,
    as_scalar,
    clip_factor,
    safe_ratio,
)


def smooth_clip_by_global_norm(
    max_norm: Threshold, *, kind: Literal["rational", "sqrt"] = "rational"
) -> optax.GradientTransformation:
    r"""Rescales the updates so that their norm tends to ``max_norm``, never reached.

    With :math:`n = \|g\|_2`, :math:`u = g / (1 + n / c)`, or :math:`u = g / \sqrt{1 +
    (n / c)^2}` if ``kind`` is "sqrt": close to the identity for :math:`n \ll c`, of
    norm close to :math:`c` for :math:`n \gg c`, and smooth in between.

    Args:
      max_norm: :math:`c \ge 0`: a number, a scalar array (inf: the identity), or a
        schedule (count of updates -> number); traceable.
      kind: which of the two; static.

    Returns:
      A transformation; stateless unless ``max_norm`` is a schedule. A non-finite
      gradient gives NaN in every entry.

    Raises:
      ValueError: if ``max_norm`` is concrete and negative or NaN, or no scalar, or if
        ``kind`` is unknown.
      TypeError: if ``max_norm`` is no number.

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

    Source: Zhang, He, Sra, Jadbabaie, Why gradient clipping accelerates training, 2020;
    the factor is never less than half of that of clipping.
    """
    if kind not in ("rational", "sqrt"):
        raise ValueError(f"kind must be 'rational' or 'sqrt', got {kind!r}")

    def bound(
        updates: optax.Updates, params: optax.Params | None, limit: ArrayLike
    ) -> tuple[optax.Updates, jax.Array]:
        del params
        norm = scaled_norm(updates)
        most = as_scalar("max_norm", limit, norm.value.dtype)
        by = clip_factor(norm, _approached(norm.product, most, kind))
        return jax.tree.map(lambda g: apply_factor(g, by), updates), by.exceeded

    return bounded_by(
        max_norm, bound, name="smooth_clip_by_global_norm", argument="max_norm"
    )


def normalize_by_update_norm(
    scale_factor: ArrayLike = 1.0, eps: ArrayLike = 1e-6
) -> optax.GradientTransformation:
    r"""Rescales the updates to the norm ``scale_factor``: normalised gradient.

    :math:`u = s g / (\|g\|_2 + \epsilon)`, the norm taken over all leaves together, in
    float32 or wider and safe from overflow. Zero stays zero, even with
    :math:`\epsilon = 0`.

    Args:
      scale_factor: :math:`s`, any number; traceable.
      eps: :math:`\epsilon \ge 0`; traceable.

    Returns:
      A stateless transformation. A non-finite gradient gives NaN in every entry, and so
      does a traced ``eps`` that is negative.

    Raises:
      ValueError: if ``eps`` is concrete and negative or NaN, or either is no scalar.
      TypeError: if either is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> updates, _ = stabjax.normalize_by_update_norm().update(
      ...     jnp.array([3e30, 4e30]), None
      ... )
      >>> [round(float(u), 4) for u in updates]
      [0.6, 0.8]

    Source: Nesterov, Minimization methods for nonsmooth convex functions, 1984; Optax
    has the same name.
    """
    check_between("scale_factor", scale_factor, -math.inf, math.inf)
    check_between("eps", eps, 0, math.inf)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        norm = scaled_norm(updates)
        dtype = norm.value.dtype
        by = _normalization(
            norm,
            as_scalar("scale_factor", scale_factor, dtype),
            as_scalar("eps", eps, dtype),
        )
        return jax.tree.map(lambda g: apply_factor(g, by), updates), state

    return optax.GradientTransformation(optax.init_empty_state, update_fn)


def _approached(norm: jax.Array, most: jax.Array, kind: str) -> jax.Array:
    """n / (1 + n / c) or n / sqrt(1 + (n / c)^2), symmetric in n and c."""
    low, high = jnp.minimum(norm, most), jnp.maximum(norm, most)
    share = safe_ratio(low, jnp.where((high > 0) & (high < jnp.inf), high, 1))
    share = jnp.where(high < jnp.inf, share, 0)
    return low / (1 + share if kind == "rational" else jnp.sqrt(1 + share * share))


def _normalization(norm: ScaledNorm, factor: jax.Array, eps: jax.Array) -> ClipFactor:
    """factor / (norm + eps), as two factors of which none leaves the range."""
    k = 1 / norm.unit
    divisor = norm.value + eps * k
    valid = jnp.isfinite(norm.value) & (eps >= 0)
    inverse = jnp.where(divisor > 0, 1 / jnp.where(divisor > 0, divisor, 1), 0)
    inverse = jnp.where(valid, inverse, jnp.nan)
    # A large entry shrinks first, a small one grows first.
    return ClipFactor(
        first=jnp.where(k > 1, k, inverse),
        second=jnp.where(k > 1, inverse, k) * factor,
        exceeded=valid,
    )
