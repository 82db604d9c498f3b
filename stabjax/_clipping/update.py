"""Bounds of the finished update: against parameters, against time; and of attention."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike

from stabjax._clipping.fixed import clip
from stabjax._clipping.threshold import (
    Threshold,
    bounded_by,
    check_threshold,
    map_bounded,
)
from stabjax._norms import ScaledNorm, magnitudes, norm_dtype, widened
from stabjax._scaling import apply_factor, as_scalar, cast_back, clip_factor


def clip_by_relative_update(
    relative: Threshold = 0.5, absolute: ArrayLike = 1e-2
) -> optax.GradientTransformation:
    r"""Shrinks an update until no entry changes its parameter by too much: Clippy.

    :math:`u_l \leftarrow u_l \min(1, \min_i \frac{r |w_i| + a}{|u_i|})` for every leaf
    :math:`l`: its direction stays, and its most daring entry decides.

    Args:
      relative: :math:`r \ge 0`: a number, a scalar array, or a schedule (count of
        updates -> number); traceable.
      absolute: :math:`a \ge 0`, what a parameter of 0 may change by; traceable. With
        0, a parameter of 0 whose update is not 0 holds its whole leaf.

    Returns:
      A transformation to stand last, after the learning rate, whose ``update`` needs
      ``params``; stateless unless ``relative`` is a schedule. A leaf with a non-finite
      entry becomes NaN as a whole.

    Raises:
      ValueError: if an argument is concrete and negative or NaN, or no scalar, or if
        ``params`` are missing.
      TypeError: if one is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_relative_update(0.1, 0.02)
      >>> params, updates = jnp.array([4.0, 1.0]), jnp.array([2.0, 0.1])
      >>> updates, _ = clipping.update(updates, None, params)
      >>> [round(float(u), 4) for u in updates]
      [0.42, 0.021]

    Source: Tang et al., Improving training stability for multitask ranking models in
    recommender systems, 2023.
    """
    absolute = check_threshold("absolute", absolute)

    def bound(
        updates: optax.Updates, params: optax.Params | None, limit: ArrayLike
    ) -> tuple[optax.Updates, jax.Array]:
        if params is None:
            raise ValueError(
                "clip_by_relative_update compares updates with params: "
                "call update(updates, state, params)"
            )
        dtype = norm_dtype(jax.tree.leaves(updates))
        numbers = (
            as_scalar("relative", limit, dtype),
            as_scalar("absolute", absolute, dtype),
        )
        return map_bounded(lambda u, w: _bounded(u, w, *numbers), updates, params)

    return bounded_by(
        relative, bound, name="clip_by_relative_update", argument="relative"
    )


def adopt_clip(exponent: ArrayLike = 0.25) -> optax.GradientTransformation:
    r"""Clips every entry to a bound that grows with the updates, as ADOPT does.

    :math:`u_i = \min(\max(g_i, -t^p), t^p)` in the update number :math:`t`, counted
    from 1: :func:`stabjax.clip` with the schedule :math:`t^p`, for directions that
    are normalised already, by Adam's second moment, say.

    Args:
      exponent: :math:`p \ge 0` (0: always 1); traceable.

    Returns:
      A transformation that keeps its count, with the metrics of a scheduled ``clip``.
      An infinite entry is bounded, NaN stays NaN, and nothing is remembered of either.

    Raises:
      ValueError: if ``exponent`` is concrete and negative or NaN, or no scalar.
      TypeError: if it is no number, or a leaf is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.adopt_clip(exponent=0.5)
      >>> state = clipping.init(jnp.zeros(2))
      >>> for _ in range(4):
      ...     updates, state = clipping.update(jnp.array([3.0, -0.5]), state)
      >>> updates.tolist()
      [2.0, -0.5]

    Source: Taniguchi et al., ADOPT: Modified Adam can converge with any beta2 with the
    optimal rate, 2024.
    """
    check_threshold("exponent", exponent)

    def growing(count: ArrayLike) -> jax.Array:
        t = jnp.asarray(count).astype(jnp.float32) + 1
        return t ** as_scalar("exponent", exponent, jnp.float32)

    return clip(growing)


def qk_clip(
    params: optax.Params,
    logits: optax.Params,
    max_logit: ArrayLike = 100.0,
    *,
    power: ArrayLike = 0.5,
    axis: int = -2,
) -> optax.Params:
    r"""Scales projections of queries and keys down where attention logits grew large.

    :math:`W_h \leftarrow W_h \min(1, \tau / S_h)^p` for every head :math:`h`, after
    the optimizer's update. With :math:`p = 1/2` for queries and for keys, the logits
    that were :math:`S_h` would have been :math:`\tau`.

    Args:
      params: the arrays to scale, and no others: kernels (and biases) of queries and
        keys, with the heads along ``axis``.
      logits: :math:`S`, the largest logit of each head that the forward pass met: an
        array of shape (heads,), a scalar for all heads, or a tree of these that is a
        prefix of ``params``.
      max_logit: :math:`\tau \ge 0`; traceable.
      power: :math:`p \ge 0`; traceable. Where keys share a part between heads, that
        part stays, and its queries have :math:`p = 1`.
      axis: the axis of the heads in every leaf; static. The default is that of Flax's
        attention.

    Returns:
      The scaled parameters, in their dtypes; bit for bit the same where
      :math:`S_h \le \tau`. A non-finite logit gives NaN in its head.

    Raises:
      ValueError: if ``max_logit`` or ``power`` is concrete and negative, NaN or no
        scalar.
      TypeError: if one is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> kernel = jnp.ones((3, 2, 4))  # (embedding, heads, width of a head)
      >>> clipped = stabjax.qk_clip({"q": kernel}, jnp.array([50.0, 400.0]))
      >>> clipped["q"][0, :, 0].tolist()
      [1.0, 0.5]

    Source: Kimi team, Kimi K2, 2025.
    """
    check_threshold("max_logit", max_logit)
    check_threshold("power", power)

    def scaled(leaf: ArrayLike, largest: ArrayLike) -> jax.Array:
        leaf = jnp.asarray(leaf)
        wide = widened(leaf, norm_dtype([leaf]))
        dtype = wide.real.dtype
        tau, p = (
            as_scalar("max_logit", max_logit, dtype),
            as_scalar("power", power, dtype),
        )
        s = jnp.asarray(largest, dtype)
        above = s > tau
        factor = jnp.where(above, tau / jnp.where(above, s, 1), 1) ** p
        factor = jnp.where(jnp.isfinite(s), factor, jnp.nan)
        if factor.ndim:
            others = [a for a in range(leaf.ndim) if a != axis % leaf.ndim]
            factor = jnp.expand_dims(factor, others)
        return cast_back(wide * factor, leaf.dtype)

    return jax.tree.map(
        lambda largest, part: jax.tree.map(lambda leaf: scaled(leaf, largest), part),
        logits,
        params,
    )


@partial(jax.jit, inline=True)
def _bounded(
    u: ArrayLike, w: ArrayLike, relative: jax.Array, absolute: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Seen as a norm, max |u| / allowed, which is to be at most 1."""
    u = jnp.asarray(u)
    dtype = norm_dtype([u])
    limits = np.finfo(dtype)

    def largest(k: jax.Array) -> jax.Array:
        allowed = relative.astype(dtype) * magnitudes(widened(w, dtype))
        allowed = jnp.maximum(allowed + absolute.astype(dtype), limits.tiny)
        return jnp.max(magnitudes(widened(u, dtype)) * k / allowed, initial=0)

    # Taken again, rescaled, where a quotient exceeds the largest number.
    plain = largest(jnp.ones((), dtype))
    huge = ~(plain < limits.max)
    down = jnp.where(huge, limits.tiny, 1).astype(dtype)
    value = lax.cond(huge, lambda: largest(down), lambda: plain)
    valid = (relative >= 0) & (absolute >= 0)
    limit = jnp.where(valid, 1, jnp.nan).astype(dtype)
    by = clip_factor(ScaledNorm(value, 1 / down), limit)
    return apply_factor(u, by), by.exceeded
