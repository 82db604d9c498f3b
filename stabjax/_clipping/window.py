"""Clipping relative to a window of past norms, by percentile or z-score."""

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
    """Ring buffer of past norms."""

    window_norms: jax.Array  # (norms, window); unused entries are inf
    window_seen: jax.Array  # (norms,), int32: number of norms recorded so far


def clip_by_percentile(
    percentile: Number = 10.0,
    window: int = 1000,
    *,
    per_leaf: bool = False,
    reference: bool = False,
    variant: Literal["autoclip", "bitsandbytes"] = "autoclip",
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Clips updates to a percentile of recent gradient norms (AutoClip).

        u = g min(1, c / n)

    Let `n` be the norm of the current gradient, and `c` the percentile of the last
    `window` norms, including `n`. Percentiles are interpolated as in
    `numpy.percentile`. The window contains norms before clipping. With the authors'
    `percentile` of 10, nine out of ten updates are clipped.

    Set `reference=True` to reproduce an existing implementation. In both variants, zero
    norms enter the window. AutoClip computes the factor `min(1, c / (n + 1e-6))` and
    keeps all norms, which requires a `window` of at least the number of updates. In
    bitsandbytes, the first norm fills the whole window, and `c` is element
    `floor(percentile)` of the sorted window. Its defaults are `window=100` and
    `per_leaf=True`.

    Args:
      percentile: a number in [0, 100]. **Traceable.**
      window: number of norms to keep, >= 1. Add it to `static_args` when using
        `optax.inject_hyperparams`. **Static.**
      per_leaf: whether to use a separate norm and window for each leaf. **Static.**
      reference: whether to reproduce an existing implementation. **Static.**
      variant: which implementation to reproduce. **Static.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation with metrics for the norm, the threshold (with `per_leaf`, the
      number of clipped leaves), whether the update was clipped, and the fraction of
      clipped updates. With `per_leaf`, a non-finite gradient turns its leaf into NaN.
      Otherwise, it turns all updates into NaN. Non-finite gradients and zero norms
      leave the state unchanged. If gradients become permanently larger, the threshold
      adapts after `(1 - percentile / 100) window` norms. If gradients become smaller,
      it adapts after `percentile / 100 window` norms.

    Raises:
      ValueError: If `percentile` is concrete and out of range, `window` is below 1, or
        `variant` is unknown.
      TypeError: If `percentile` is not a number, or `window` is not a Python integer.

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
    """Clips updates whose norm is an outlier among recent norms.

        u = g min(1, (mean + z_threshold std) / n)

    Let `n` be the global norm, and `mean` and `std` the mean and population standard
    deviation of the previous `window` norms before clipping. Clipping begins after
    `max(2, window // 2)` norms. Place the transformation near the end of a chain, after
    the optimizer's scaling.

    Set `reference=True` to reproduce Levanter, which differs in three ways: the
    standard deviation and the norm in the denominator are at least 1e-6, and zero norms
    enter the window.

    Args:
      z_threshold: number of standard deviations above the mean, >= 0. **Traceable.**
      window: number of norms to keep, >= 2. Add it to `static_args` when using
        `optax.inject_hyperparams`. **Static.**
      reference: whether to reproduce Levanter. **Static.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation with metrics for the norm, the threshold, whether the update was
      clipped, and the fraction of clipped updates. A non-finite gradient turns all
      updates into NaN. Non-finite gradients and zero norms leave the state unchanged.
      If gradients become permanently larger by any factor, clipping stops after
      `window / (1 + z_threshold^2)` norms. If gradients become smaller, the threshold
      adapts after `window` norms.

    Raises:
      ValueError: If `z_threshold` is concrete and negative or NaN, or `window` is below
        2.
      TypeError: If `z_threshold` is not a number, or `window` is not a Python integer.

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
        hint = "With optax.inject_hyperparams, pass static_args=('window',)."
        raise TypeError(f"{error} {hint}") from None


def _empty(number: int, window: int, dtype: DTypeLike) -> NormWindow:
    norms = jnp.full((number, window), jnp.inf, dtype)
    return NormWindow(norms, jnp.zeros(number, jnp.int32))


def _push(past: NormWindow, norms: jax.Array) -> NormWindow:
    """Replaces the oldest norm of each window."""
    size = past.window_norms.shape[1]
    positions = jnp.arange(size, dtype=jnp.int32)[None, :]
    oldest = positions == (past.window_seen % size)[:, None]
    return NormWindow(
        jnp.where(oldest, norms[:, None], past.window_norms),
        optax.safe_increment(past.window_seen),
    )


def _size(past: NormWindow) -> jax.Array:
    """Returns the number of norms in each window."""
    return jnp.minimum(past.window_seen, past.window_norms.shape[1])


def _percentile(past: NormWindow, percentile: jax.Array) -> jax.Array:
    # Unused entries are inf, which sorts to the end.
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
    """Computes mean and standard deviation of each window, or 0 if it is empty."""
    positions = jnp.arange(past.window_norms.shape[1], dtype=jnp.int32)[None, :]
    known = positions < _size(past)[:, None]
    size = jnp.maximum(_size(past), 1)[:, None].astype(past.window_norms.dtype)
    norms = jnp.where(known, past.window_norms, 0)
    # Divides before summing because the sum of large norms may overflow.
    mean = jnp.sum(norms / size, axis=1, keepdims=True)
    deviations = unit_norms(jnp.where(known, norms - mean, 0), 1).product
    return mean[:, 0], (deviations / jnp.sqrt(size))[:, 0]
