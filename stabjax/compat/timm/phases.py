"""timm's scheduler of three phases."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from stabjax._schedules.arguments import (
    ArrayLike,
    builder,
    check,
    check_positive,
    known,
    nan_unless,
    select,
)
from stabjax._schedules.core import constant_schedule
from stabjax._schedules.decays import inverse_sqrt_schedule
from stabjax._schedules.shapes import between, share, share_ahead
from stabjax.compat.timm.cycles import power_of_share
from stabjax.compat.timm.warmup import warmed_up


@builder
def wsd_lr_scheduler(
    base_lr: ArrayLike,
    t_initial: ArrayLike,
    decay_t: ArrayLike,
    lr_min: ArrayLike = 0.0,
    stable_fn: str = "constant",
    stable_timescale: ArrayLike | None = None,
    stable_power: ArrayLike = 0.5,
    decay_fn: str | Callable[[ArrayLike], ArrayLike] = "1-sqrt",
    decay_power: ArrayLike = 0.5,
    decay_ratio: ArrayLike = 0.1,
    warmup_t: ArrayLike = 0,
    warmup_lr_init: ArrayLike = 0.0,
) -> optax.Schedule:
    r"""Warm-up, a stable phase, and a decay in the last steps.

    .. math:: f(t) = E + (\max(L\,s(c), E) - E)\,g(q), \qquad c = t - W

    with :math:`s = 1` (constant), :math:`(1 + c / \tau)^{-1/2}` (rsqrt) or
    :math:`(1 + c / \tau)^{-a}` (power), and, as :math:`q` goes from 0 to 1 in the last
    D of T steps, :math:`g = 1 - q` (linear), :math:`1 - \sqrt q` (1-sqrt),
    :math:`\cos^2(\pi q / 2)` (cosine), :math:`1 - q^b` (power),
    :math:`(r^q - r) / (1 - r)` (exp), or a function of one's own.

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      t_initial: :math:`T`, the steps after the warm-up, positive. Traceable.
      decay_t: :math:`D` in steps, positive and at most T. Traceable.
      lr_min: :math:`E`, zero or greater. Traceable.
      stable_fn: `"constant"`, `"rsqrt"` or `"power"`. Static.
      stable_timescale: :math:`\tau` in steps, positive; W if None. Traceable.
      stable_power: :math:`a`, positive. Traceable.
      decay_fn: `"linear"`, `"1-sqrt"`, `"cosine"`, `"power"`, `"exp"`, or a function of
        q that JAX can trace. Static.
      decay_power: :math:`b`, positive. Traceable.
      decay_ratio: :math:`r`, between 0 and 1, neither included. Traceable.
      warmup_t: :math:`W` in steps, before the T. Traceable.
      warmup_lr_init: the rate at step 0 of a warm-up. Traceable.

    Returns:
      A function of the count, of any shape, that returns the rate, and NaN if a number
      was traced and is not allowed.

    Raises:
      ValueError: an unknown function; a concrete number is not allowed.

    Example:
      >>> import stabjax
      >>> build = stabjax.compat.timm.wsd_lr_scheduler
      >>> schedule = build(0.8, 10, decay_t=4, warmup_t=2)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 8, 9, 12)]
      [0.0, 0.4, 0.8, 0.8, 0.4, 0.0]

    Source: timm's `WSDLRScheduler`; Haegele et al., Scaling Laws and Compute-Optimal
    Training Beyond Fixed Training Durations, 2024 (arXiv 2405.18392).
    """
    good = check_positive(t_initial=t_initial, decay_t=decay_t)
    good &= decay_t <= t_initial
    if known(decay_t, t_initial):
        what = f"at most t_initial, which is {t_initial}"
        check("decay_t", decay_t, lambda x: x <= t_initial, what)
    good &= check("lr_min", lr_min, lambda x: x >= 0, "zero or greater")
    good &= check_positive(stable_power=stable_power, decay_power=decay_power)
    timescale = warmup_t if stable_timescale is None else stable_timescale
    stable = _stable(base_lr, stable_fn, stable_power, timescale)
    decay = _decay(decay_fn, decay_power, decay_ratio)

    def schedule(count: ArrayLike) -> ArrayLike:
        high = jnp.maximum(stable(count), lr_min)
        q = share(count, t_initial - decay_t, decay_t)
        left = share_ahead(count, t_initial - decay_t, decay_t)
        return nan_unless(good, lr_min + (high - lr_min) * decay(q, left))

    return warmed_up(schedule, base_lr, warmup_t, warmup_lr_init, warmup_prefix=True)


def _stable(
    base_lr: ArrayLike, stable_fn: str, power: ArrayLike, timescale: ArrayLike
) -> optax.Schedule:
    if stable_fn == "constant":
        return constant_schedule(base_lr)
    if stable_fn not in ("rsqrt", "power"):
        raise ValueError(
            f"stable_fn must be 'constant', 'rsqrt' or 'power', got {stable_fn!r}."
        )
    good = check_positive(stable_timescale=timescale)
    if stable_fn == "rsqrt":
        return inverse_sqrt_schedule(nan_unless(good, base_lr), timescale)
    tau = select(good, timescale, 1)
    return lambda count: nan_unless(
        good, base_lr * (1 + jnp.maximum(count, 0) / tau) ** -power
    )


def _decay(
    decay_fn: str | Callable[[ArrayLike], ArrayLike],
    power: ArrayLike,
    ratio: ArrayLike,
) -> Callable[[ArrayLike, ArrayLike], ArrayLike]:
    """From 1 to 0, as a share goes from 0 to 1 and what is left of it from 1 to 0."""
    good = check("decay_ratio", ratio, lambda x: (x > 0) & (x < 1), "between 0 and 1")
    if callable(decay_fn):
        return lambda q, left: decay_fn(q)
    if decay_fn == "power":
        return lambda q, left: 1 - power_of_share(q, power)
    if decay_fn == "exp":
        rate = nan_unless(good, ratio)
        return lambda q, left: (rate**q - rate) / (1 - rate)
    if decay_fn in ("linear", "1-sqrt", "cosine"):
        return lambda q, left: between(decay_fn, 1.0, 0.0, q, left)
    raise ValueError(
        "decay_fn must be 'linear', '1-sqrt', 'cosine', 'power', 'exp' or a function, "
        f"got {decay_fn!r}."
    )
