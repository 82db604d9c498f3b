"""Bounds learned from a window of the last norms: percentile, mean and deviation."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from stabjax._arguments import as_integer, check_choice
from stabjax._clipping.history import clip_by_history, with_eps
from stabjax._clipping.numbers import as_finite, checked
from stabjax._norms import unit_norms
from stabjax._types import Number


class NormWindow(NamedTuple):
    """The last norms that entered, in a ring."""

    window_norms: jax.Array  # (norms, window); inf where none has entered yet
    window_seen: jax.Array  # (norms,), int32: how many have entered


def clip_by_percentile(
    percentile: Number = 10.0,
    window: int = 1000,
    *,
    per_leaf: bool = False,
    reference: bool = False,
    variant: Literal["autoclip", "bitsandbytes"] = "autoclip",
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Rescales updates to a percentile of the last norms: AutoClip.

        u = g min(1, c / n)

    with the norm `n` and the percentile `c` of the last `window` norms, this one
    included, interpolated as in `numpy.percentile`. The window holds norms before
    clipping. With the authors' `percentile` of 10, nine updates of ten shrink.

    With `reference=True` it gives the authors' numbers, in which zero norms enter.
    AutoClip's factor is `min(1, c / (n + 1e-6))`; set `window` to the number of updates
    or more, as the authors forget nothing. With bitsandbytes the first norm fills the
    window, and `c` is element `floor(percentile)` of the sorted window (its defaults
    are `window=100, per_leaf=True`).

    Args:
      percentile: in [0, 100]. **Traceable.**
      window: number of norms that are remembered, >= 1. **Static** (`static_args` under
        `optax.inject_hyperparams`).
      per_leaf: whether each leaf has its own norm and window. **Static.**
      reference: whether to give the authors' numbers. **Static.**
      variant: which of the two codes `reference` follows. **Static.**
      axis_name: as in `stabjax.global_norm`. **Static.**

    Returns:
      A transformation whose state reports the norm, the threshold (per leaf: the number
      of clipped leaves), whether any was clipped and how often. A non-finite gradient
      gives NaN, in the leaf if `per_leaf`, otherwise everywhere; it leaves the state
      unchanged, and so does a zero norm. After a lasting rise of the scale the
      threshold has followed when `(1 - percentile / 100) window` norms have entered,
      after a fall when `percentile / 100 window` have.

    Raises:
      ValueError: `percentile` is concrete and out of range, `window` is below 1, or
        `variant` is unknown.
      TypeError: `percentile` is not a number or `window` not a Python integer.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> tx = stabjax.clip_by_percentile(50.0)
      >>> state, update = tx.init(jnp.zeros(2)), jax.jit(tx.update)
      >>> for norm in (1.0, 2.0, 4.0):
      ...     updates, state = update(jnp.array([0.0, norm]), state)
      ...     print(float(updates[1]))
      1.0
      1.5
      2.0

    References:
      Seetharaman, Wichern, Pardo, Le Roux, AutoClip: Adaptive Gradient Clipping for
      Source Separation Networks, 2020. https://arxiv.org/abs/2007.14469
      bitsandbytes, `percentile_clipping`.
      https://github.com/bitsandbytes-foundation/bitsandbytes
    """
    scalars = checked(percentile=(percentile, "in [0, 100]"))
    window = _as_window(window, ">= 1")
    check_choice("variant", variant, ("autoclip", "bitsandbytes"))

    def rule(norms: jax.Array, past: NormWindow) -> tuple[jax.Array, NormWindow]:
        (percentile,) = scalars(norms.dtype)
        if reference and variant == "bitsandbytes":
            first = past.window_seen[:, None] == 0
            filled = jnp.where(first, norms[:, None], past.window_norms)
            new = _push(past._replace(window_norms=filled), norms)
            return _order_statistic(new.window_norms, percentile), new
        new = _push(past, norms)
        return with_eps(
            _percentile(new, percentile), norms, 1e-6 if reference else 0.0
        ), new

    return clip_by_history(
        "clip_by_percentile",
        lambda number, dtype: _empty(number, window, dtype),
        rule,
        per_leaf=per_leaf,
        reference=reference,
        axis_name=axis_name,
    )


def clip_update_norm(
    z_threshold: Number = 3.0,
    *,
    window: int = 128,
    reference: bool = False,
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Rescales updates whose norm is an outlier among the last norms.

        u = g min(1, (mean + z_threshold std) / n)

    with the global norm `n` and the mean and the standard deviation (of the population)
    of the `window` norms before it, taken before clipping. Nothing is clipped until
    `max(2, window // 2)` norms are known. Place it late in a chain, after the
    optimizer's own scaling.

    With `reference=True` it gives Levanter's numbers, which differ in three ways: the
    deviation is at least 1e-6, so is the norm that divides, and zero norms enter.

    Args:
      z_threshold: deviations above the mean, >= 0. **Traceable.**
      window: number of norms that are remembered, >= 2. **Static** (`static_args` under
        `optax.inject_hyperparams`).
      reference: whether to give Levanter's numbers. **Static.**
      axis_name: as in `stabjax.global_norm`. **Static.**

    Returns:
      A transformation whose state reports the norm, the threshold, whether it clipped
      and how often. A non-finite gradient gives NaN everywhere; it leaves the state
      unchanged, and so does a zero norm. After a lasting rise of the scale by any
      factor it stops clipping when `window / (1 + z_threshold^2)` norms have entered;
      after a fall the threshold has followed when `window` have.

    Raises:
      ValueError: `z_threshold` is concrete and negative or NaN, or `window` is below 2.
      TypeError: `z_threshold` is not a number or `window` not a Python integer.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> tx = stabjax.clip_update_norm(3.0, window=4)
      >>> state, update = tx.init(jnp.zeros(2)), jax.jit(tx.update)
      >>> for norm in (1.0, 3.0, 8.0):
      ...     updates, state = update(jnp.array([0.0, norm]), state)
      ...     print(float(updates[1]))
      1.0
      3.0
      5.0

    References:
      Levanter, `ClipUpdateNormConfig`, 2025.
      https://github.com/stanford-crfm/levanter
    """
    scalars = checked(z_threshold=(z_threshold, ">= 0"))
    window = _as_window(window, ">= 2")
    least = 1e-6 if reference else 0.0

    def rule(norms: jax.Array, past: NormWindow) -> tuple[jax.Array, NormWindow]:
        (z_threshold,) = as_finite(scalars(norms.dtype))
        mean, std = _mean_and_std(past)
        bound = mean + z_threshold * jnp.maximum(std, least)
        if reference:
            bound = bound * (norms / jnp.maximum(norms, least))
        warming_up = past.window_seen < max(2, window // 2)
        return jnp.where(warming_up, jnp.inf, bound), _push(past, norms)

    return clip_by_history(
        "clip_update_norm",
        lambda number, dtype: _empty(number, window, dtype),
        rule,
        reference=reference,
        axis_name=axis_name,
    )


def _as_window(window: int, allowed: str) -> int:
    try:
        return as_integer("window", window, allowed)
    except TypeError as error:
        hint = "Under optax.inject_hyperparams pass static_args=('window',)."
        raise TypeError(f"{error} {hint}") from None


def _empty(number: int, window: int, dtype: DTypeLike) -> NormWindow:
    norms = jnp.full((number, window), jnp.inf, dtype)
    return NormWindow(norms, jnp.zeros(number, jnp.int32))


def _push(past: NormWindow, norms: jax.Array) -> NormWindow:
    """Replaces the oldest norms."""
    size = past.window_norms.shape[1]
    positions = jnp.arange(size, dtype=jnp.int32)[None, :]
    oldest = positions == (past.window_seen % size)[:, None]
    return NormWindow(
        jnp.where(oldest, norms[:, None], past.window_norms),
        optax.safe_increment(past.window_seen),
    )


def _size(past: NormWindow) -> jax.Array:
    """How many norms each window holds."""
    return jnp.minimum(past.window_seen, past.window_norms.shape[1])


def _percentile(past: NormWindow, percentile: jax.Array) -> jax.Array:
    # Places not yet filled hold inf, which comes last.
    ordered = jnp.sort(past.window_norms, axis=1)
    position = (_size(past) - 1).astype(percentile.dtype) * (percentile / 100)
    below = jnp.nan_to_num(jnp.floor(position)).astype(jnp.int32)
    above = jnp.minimum(below + 1, _size(past) - 1)
    low, high = (
        jnp.take_along_axis(ordered, index[:, None], axis=1)[:, 0]
        for index in (below, above)
    )
    return low + (position - jnp.floor(position)) * (high - low)


def _order_statistic(norms: jax.Array, percentile: jax.Array) -> jax.Array:
    index = jnp.minimum(jnp.floor(percentile), norms.shape[1] - 1)
    ordered = jnp.sort(norms, axis=1)
    found = ordered[:, jnp.nan_to_num(index).astype(jnp.int32)]
    return jnp.where(jnp.isnan(percentile), jnp.nan, found)


def _mean_and_std(past: NormWindow) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of the norms in each window; 0 if it is empty."""
    positions = jnp.arange(past.window_norms.shape[1], dtype=jnp.int32)[None, :]
    known = positions < _size(past)[:, None]
    size = jnp.maximum(_size(past), 1)[:, None].astype(past.window_norms.dtype)
    norms = jnp.where(known, past.window_norms, 0)
    # Each norm is divided first: the sum of large ones would overflow.
    mean = jnp.sum(norms / size, axis=1, keepdims=True)
    deviations = unit_norms(jnp.where(known, norms - mean, 0), 1).product
    return mean[:, 0], (deviations / jnp.sqrt(size))[:, 0]
