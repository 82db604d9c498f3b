"""Bounds learned from a window of the last norms: percentile, mean and deviations."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from stabjax._clipping.history import bounded_by_history, scalars, softened
from stabjax._clipping.threshold import check_between
from stabjax._norms import unit_norms


class NormWindow(NamedTuple):
    """The last norms that entered, in a ring."""

    window_norms: jax.Array  # (norms, window); inf where none has entered yet
    window_seen: jax.Array  # (norms,), int32: how many have entered


def clip_by_percentile(
    percentile: ArrayLike = 10.0,
    window: int = 1000,
    *,
    per_leaf: bool = False,
    reference: Literal["autoclip", "bitsandbytes"] | None = None,
) -> optax.GradientTransformation:
    r"""Rescales the updates to a percentile of the norms seen of late: AutoClip.

    :math:`u = g \cdot \min(1, c_t / n_t)` with :math:`n_t = \|g\|_2` and :math:`c_t`
    the percentile :math:`p` of :math:`n_{t-W+1} \dots n_t`, the present norm included,
    interpolated as in ``numpy.percentile``. With the authors' :math:`p = 10` nine
    updates of ten shrink. The norms that are remembered are those before clipping.

    Args:
      percentile: :math:`p`, from 0 to 100; traceable.
      window: :math:`W \ge 1`, how many norms are remembered; static (``static_args``
        under ``optax.inject_hyperparams``).
      per_leaf: whether each leaf has its own norm and history; static.
      reference: whose numbers to give where they differ, static. "autoclip": the factor
        is :math:`\min(1, c / (n + 10^{-6}))` (and ``window`` at least the number of
        updates: the authors forget nothing). "bitsandbytes": the first norm fills the
        window, and :math:`c` is entry :math:`\lfloor p \rfloor` of the sorted window
        (there ``window=100, per_leaf=True``).

    Returns:
      A transformation whose state has metrics: the norm, the threshold, whether and how
      often it clipped. A non-finite gradient gives NaN, in the leaf if ``per_leaf``,
      else everywhere, and is not remembered: the next update is clipped as if it had
      not been. A zero norm is not remembered either, unless ``reference``. After a
      lasting rise of the gradient's scale the threshold has followed when :math:`(1 - p
      / 100) W` norms have entered, after a fall when :math:`p W / 100` have.

    Raises:
      ValueError: if ``percentile`` is concrete and not from 0 to 100, if ``window`` is
        below 1, or ``reference`` is unknown.
      TypeError: if ``percentile`` is no number or ``window`` no Python integer.

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

    Source: Seetharaman, Wichern, Pardo, Le Roux, AutoClip, 2020; the 8-bit optimizers
    of bitsandbytes, `percentile_clipping`.
    """
    check_between("percentile", percentile, 0, 100)
    window = _check_window(window, 1)
    if reference not in (None, "autoclip", "bitsandbytes"):
        raise ValueError(
            f"reference must be None, 'autoclip' or 'bitsandbytes', got {reference!r}"
        )

    def rule(norms: jax.Array, past: NormWindow) -> tuple[jax.Array, NormWindow]:
        (p,) = scalars({"percentile": percentile}, norms.dtype)
        p = jnp.where((p >= 0) & (p <= 100), p, jnp.nan)
        if reference == "bitsandbytes":
            first = past.window_seen[:, None] == 0
            past = past._replace(
                window_norms=jnp.where(first, norms[:, None], past.window_norms)
            )
            entered = _pushed(past, norms)
            return _order_statistic(entered.window_norms, p), entered
        entered = _pushed(past, norms)
        limit = _percentile(entered, p)
        return softened(limit, norms, 1e-6 if reference else 0), entered

    return bounded_by_history(
        "clip_by_percentile",
        lambda number, dtype: _empty_window(number, window, dtype),
        rule,
        per_leaf=per_leaf,
        zeros_enter=reference is not None,
    )


def clip_update_norm(
    sigma: ArrayLike = 3.0, window: int = 128, *, reference: bool = False
) -> optax.GradientTransformation:
    r"""Rescales updates whose norm is an outlier among those before.

    :math:`u = g \cdot \min(1, c_t / n_t)` with :math:`n_t = \|g\|_2` and :math:`c_t =
    \mathrm{mean} + \sigma \cdot \mathrm{std}` of the last :math:`W` norms before this
    one (of the population), as they were before clipping. As long as fewer than
    :math:`\max(2, \lfloor W / 2 \rfloor)` are known nothing is clipped. Meant for the
    updates, late in a chain, after an optimizer's own scaling.

    Args:
      sigma: :math:`\sigma \ge 0`, deviations above the mean; traceable.
      window: :math:`W \ge 2`, how many norms are remembered; static (``static_args``
        under ``optax.inject_hyperparams``).
      reference: whether to give Levanter's numbers where they differ: the deviation is
        at least 1e-6, so is the norm that divides, and zero norms enter; static.

    Returns:
      A transformation whose state has metrics: the norm, the threshold, whether and how
      often it clipped. A non-finite gradient gives NaN everywhere and is not
      remembered: the next update is clipped as if it had not been. After a lasting rise
      of the scale by any factor it clips no more when :math:`W / (1 + \sigma^2)` norms
      have entered, after a fall the threshold has followed when :math:`W` have.

    Raises:
      ValueError: if ``sigma`` is concrete and negative or NaN, or if ``window`` is
        below 2.
      TypeError: if ``sigma`` is no number or ``window`` no Python integer.

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

    Source: Levanter, `ClipUpdateNormConfig`, 2025.
    """
    check_between("sigma", sigma, 0, math.inf)
    window = _check_window(window, 2)
    least = 1e-6 if reference else 0.0

    def rule(norms: jax.Array, past: NormWindow) -> tuple[jax.Array, NormWindow]:
        (factor,) = scalars({"sigma": sigma}, norms.dtype)
        mean, deviation = _moments(past)
        limit = mean + factor * jnp.maximum(deviation, least)
        if reference:
            limit = limit * (norms / jnp.maximum(norms, least))
        warming = past.window_seen < max(2, window // 2)
        return jnp.where(warming, jnp.inf, limit), _pushed(past, norms)

    return bounded_by_history(
        "clip_update_norm",
        lambda number, dtype: _empty_window(number, window, dtype),
        rule,
        zeros_enter=reference,
    )


def _empty_window(number: int, window: int, dtype: Any) -> NormWindow:
    return NormWindow(
        jnp.full((number, window), jnp.inf, dtype), jnp.zeros(number, jnp.int32)
    )


def _pushed(past: NormWindow, norms: jax.Array) -> NormWindow:
    """With these norms in the place of the oldest."""
    size = past.window_norms.shape[1]
    here = (
        jnp.arange(size, dtype=jnp.int32)[None, :] == (past.window_seen % size)[:, None]
    )
    return NormWindow(
        jnp.where(here, norms[:, None], past.window_norms),
        optax.safe_increment(past.window_seen),
    )


def _number(past: NormWindow) -> jax.Array:
    """How many norms are in the window."""
    return jnp.minimum(past.window_seen, past.window_norms.shape[1])


def _percentile(past: NormWindow, p: jax.Array) -> jax.Array:
    ordered = jnp.sort(past.window_norms, axis=1)
    place = (_number(past) - 1).astype(p.dtype) * (p / 100)
    below = jnp.nan_to_num(jnp.floor(place)).astype(jnp.int32)
    above = jnp.minimum(below + 1, _number(past) - 1)
    low, high = (
        jnp.take_along_axis(ordered, index[:, None], axis=1)[:, 0]
        for index in (below, above)
    )
    return low + (place - jnp.floor(place)) * (high - low)


def _order_statistic(norms: jax.Array, p: jax.Array) -> jax.Array:
    index = jnp.minimum(jnp.floor(p), norms.shape[1] - 1)
    ordered = jnp.sort(norms, axis=1)
    found = ordered[:, jnp.nan_to_num(index).astype(jnp.int32)]
    return jnp.where(jnp.isnan(p), jnp.nan, found)


def _moments(past: NormWindow) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of the norms in the window; 0 if there are none."""
    size = past.window_norms.shape[1]
    known = jnp.arange(size, dtype=jnp.int32)[None, :] < _number(past)[:, None]
    number = jnp.maximum(_number(past), 1)[:, None].astype(past.window_norms.dtype)
    norms = jnp.where(known, past.window_norms, 0)
    mean = jnp.sum(norms / number, axis=1, keepdims=True)
    deviations = unit_norms(jnp.where(known, norms - mean, 0), 1).product
    return mean[:, 0], (deviations / jnp.sqrt(number))[:, 0]


def _check_window(window: int, least: int) -> int:
    if not isinstance(window, int | np.integer) or isinstance(window, bool):
        raise TypeError(
            "window must be a Python integer (static_args=('window',) under "
            f"optax.inject_hyperparams), got {window!r}"
        )
    if window < least:
        raise ValueError(f"window must be at least {least}, got {window}")
    return int(window)
