"""Clipping relative to parameters, step count or attention logits."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from stabjax._arguments import check
from stabjax._axes import Axes, reduced
from stabjax._clipping.fixed import clip_elements
from stabjax._clipping.threshold import (
    Group,
    Threshold,
    Thresholds,
    check_params,
    clip_to_threshold,
)
from stabjax._norms import as_scaled, magnitudes, norm_dtype, widened
from stabjax._scaling import apply_factors, as_scalar, cast_back, clip_factor
from stabjax._types import Number


def clip_by_relative_update(
    relative: Threshold = 0.5, absolute: Number = 1e-2, *, axis_name: object = None
) -> optax.GradientTransformation:
    """Scales updates to limit the relative change of each parameter (Clippy).

        u_l <- u_l min(1, min_i (relative |w_i| + absolute) / |u_i|)  for every leaf l

    All elements of a leaf are scaled by the same factor, which preserves the direction
    of its update. The element with the largest relative change determines the factor.

    Args:
      relative: a number >= 0 (inf: the identity), a scalar array, a schedule (update
        count -> number), or a tree of these. See `stabjax.clip_by_global_norm`.
        **Traceable.**
      absolute: maximum change of a parameter that is 0, >= 0. With an `absolute` of 0,
        a zero parameter with a nonzero update prevents any change of its leaf.
        **Traceable.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation. Place it at the end of a chain, after the learning rate. Its
      `update` requires `params`. It is stateless unless `relative` is a schedule. If an
      element of a leaf is non-finite, the entire leaf becomes NaN.

    Raises:
      ValueError: If an argument is concrete and negative or NaN, or not a scalar, if
        `params` is None, or if `axis_name` contradicts the type of a leaf.
      TypeError: If an argument is not a number, or a leaf is not an array.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_relative_update(0.1, 0.02)
      >>> params, updates = jnp.array([4.0, 1.0]), jnp.array([2.0, 0.1])
      >>> updates, _ = clipping.update(updates, None, params)
      >>> [round(float(u), 4) for u in updates]
      [0.42, 0.021]

    References:
      Tang et al., Improving training stability for multitask ranking models in
      recommender systems, 2023, https://arxiv.org/abs/2302.09178
    """
    check("absolute", absolute, ">= 0")

    def bound(group: Group, relative: Number) -> tuple[list[jax.Array], jax.Array]:
        params = check_params("clip_by_relative_update", group)
        if not group.updates:
            return [], jnp.zeros((), bool)
        dtype = norm_dtype(group.updates)
        slope = as_scalar("relative", relative, dtype)
        start = as_scalar("absolute", absolute, dtype)
        bounded, exceeded = _bounded(group.updates, params, slope, start, group.axes)
        return bounded, exceeded

    thresholds = Thresholds("relative", relative, axis_name)
    return clip_to_threshold("clip_by_relative_update", thresholds, bound)


def adopt_clip(
    exponent: Number = 0.25, *, axis_name: object = None
) -> optax.GradientTransformation:
    """Clips each element to a bound that grows with the update count (ADOPT).

        u_i = min(max(g_i, -t^exponent), t^exponent)  in update t = 1, 2, ...

    This is `stabjax.clip` with the schedule t^exponent. Use it for normalized
    directions, for example after division by the square root of Adam's second moment.

    Args:
      exponent: a number >= 0. With 0, the bound is always 1. **Traceable.**
      axis_name: see `stabjax.clip`. **Static.**

    Returns:
      A transformation whose state contains the update count and the metrics of a
      scheduled `clip`. Infinite elements are clipped and NaN stays NaN. Neither affects
      later updates.

    Raises:
      ValueError: If `exponent` is concrete and negative or NaN, or not a scalar.
      TypeError: If `exponent` is not a number, or a leaf is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.adopt_clip(exponent=0.5)
      >>> state = clipping.init(jnp.zeros(2))
      >>> for _ in range(4):
      ...     updates, state = clipping.update(jnp.array([3.0, -0.5]), state)
      >>> updates.tolist()
      [2.0, -0.5]

    References:
      Taniguchi et al., ADOPT: Modified Adam can converge with any beta2 with the
      optimal rate, 2024, https://arxiv.org/abs/2411.02853
    """
    check("exponent", exponent, ">= 0")

    def growing(count: Number) -> jax.Array:
        t = jnp.asarray(count).astype(jnp.float32) + 1
        return t ** as_scalar("exponent", exponent, jnp.float32)

    return clip_elements("adopt_clip", Thresholds("max_delta", growing, axis_name))


def qk_clip(
    params: optax.Params,
    logits: optax.Params,
    max_logit: Number = 100.0,
    *,
    power: Number = 0.5,
    axis: int = -2,
) -> optax.Params:
    """Scales down query and key projections with large attention logits (QK-Clip).

        W_h <- W_h min(1, max_logit / S_h)^power  for every head h

    Apply it to the parameters after each optimizer update. With a power of 1/2 for both
    queries and keys, a logit of S_h is scaled down to `max_logit`.

    Args:
      params: the kernels (and biases) of queries and keys, with heads along `axis`.
        Every array in this tree is scaled.
      logits: S, the largest logit of each head in the forward pass: an array of shape
        (heads,), a scalar for all heads, or a prefix tree of `params` with such values.
      max_logit: a number >= 0. The default is the authors' value. **Traceable.**
      power: a number >= 0. If heads share part of the keys, exclude that part from
        `params` and use a power of 1 for its queries. **Traceable.**
      axis: the axis of the heads in every leaf. The default matches Flax's attention.
        **Static.**

    Returns:
      The scaled parameters, with their dtypes preserved. Heads with S_h <= `max_logit`
      are unchanged bit for bit. A non-finite logit turns its head into NaN.

    Raises:
      ValueError: If `max_logit` or `power` is concrete and negative or NaN, or not a
        scalar.
      TypeError: If `max_logit` or `power` is not a number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> kernel = jnp.ones((3, 2, 4))  # (embedding, heads, width of a head)
      >>> clipped = stabjax.qk_clip({"q": kernel}, jnp.array([50.0, 400.0]))
      >>> clipped["q"][0, :, 0].tolist()
      [1.0, 0.5]

    References:
      Kimi team, Kimi K2: open agentic intelligence, 2025,
      https://arxiv.org/abs/2507.20534
    """
    check("max_logit", max_logit, ">= 0")
    check("power", power, ">= 0")

    def scaled(leaf: Number, largest: Number) -> jax.Array:
        leaf = jnp.asarray(leaf)
        wide = widened(leaf, norm_dtype([leaf]))
        dtype = wide.real.dtype
        limit = as_scalar("max_logit", max_logit, dtype)
        exponent = as_scalar("power", power, dtype)
        s = jnp.asarray(largest, dtype)
        above = s > limit
        factor = jnp.where(above, limit / jnp.where(above, s, 1), 1) ** exponent
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


@partial(jax.jit, static_argnames="axes", inline=True)
def _bounded(
    updates: list[jax.Array],
    params: list[jax.Array],
    relative: jax.Array,
    absolute: jax.Array,
    axes: tuple[Axes, ...],
) -> tuple[list[jax.Array], jax.Array]:
    """Clips each leaf's max |u| / allowed to 1."""
    dtype = relative.dtype
    limits = np.finfo(dtype)
    valid = (relative >= 0) & (absolute >= 0)
    # inf * 0 would be NaN.
    everything = relative == jnp.inf
    slope = jnp.where(everything, 0, relative)
    start = jnp.where(everything, jnp.inf, absolute)

    def quotients(scales: jax.Array | None) -> Iterator[jax.Array]:
        for i, (u, w) in enumerate(zip(updates, params, strict=True)):
            allowed = slope * magnitudes(widened(w, dtype)) + start
            size = magnitudes(widened(u, dtype))
            size = size if scales is None else size * scales[i]
            yield size / jnp.maximum(allowed, limits.tiny)

    def largest(scales: jax.Array | None) -> jax.Array:
        peaks = [jnp.max(part, initial=0) for part in quotients(scales)]
        return reduced(peaks, axes, apart=True, largest=True)

    # XLA:CPU (jaxlib 0.10 and 0.12) ignores NaN in the maxima of some batches.
    unknown = [jnp.any(jnp.isnan(part)).astype(dtype) for part in quotients(None)]
    valid &= reduced(unknown, axes, apart=True) == 0
    # If a quotient overflows, recomputes with rescaled values.
    plain = largest(None)
    huge = ~(plain < limits.max)
    down = jnp.where(huge, limits.tiny, 1).astype(dtype)
    value = lax.cond(jnp.any(huge), lambda: largest(down), lambda: plain)
    one = jnp.where((slope == 0) & (start == 0), 0, 1)
    limit = jnp.where(valid, one, jnp.nan).astype(dtype)
    factors = clip_factor(as_scaled(value, 1 / down), limit)
    return apply_factors(updates, factors), jnp.any(factors.exceeded)
