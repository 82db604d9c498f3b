"""timm's schedulers. Pass the learning rate instead of the optimizer.

The count is the argument of timm's `step` or `step_update`, in updates, or in epochs
multiplied by the number of updates per epoch. `t_in_epochs` and noise are not
supported.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from stabjax._arguments import check, nan_unless, select
from stabjax._schedules.compose import join_schedules
from stabjax._schedules.counts import builder
from stabjax._schedules.cycles import cycle_of
from stabjax._schedules.cycles import power as power_of
from stabjax._schedules.decays import linear_schedule
from stabjax._schedules.shapes import half_cosine, with_ends
from stabjax._schedules.wrappers import shift_schedule
from stabjax._types import Number, Schedule
from stabjax.compat import torch
from stabjax.compat.torch.decays import as_steps

__all__ = ["cosine_lr_scheduler", "multi_step_lr_scheduler", "step_lr_scheduler"]


@builder
def cosine_lr_scheduler(
    base_lr: Number,
    t_initial: Number,
    lr_min: Number = 0.0,
    cycle_mul: Number = 1.0,
    cycle_decay: Number = 1.0,
    cycle_limit: Number = 1,
    warmup_t: Number = 0,
    warmup_lr_init: Number = 0.0,
    warmup_prefix: bool = False,
    *,
    k_decay: Number = 1.0,
) -> Schedule:
    """Returns the schedule of timm's `CosineLRScheduler`.

        f(t) = E + (L d^i - E) (1 + cos(pi q^k)) / 2,    q = c / T_i

    Here c is the number of steps since the beginning of cycle i, which has T_i = T m^i
    steps. After the last cycle, the value is E. A linear warmup reaches L at step W.
    Cycles then continue at step t, as if there had been no warmup, or at t - W with
    `warmup_prefix`.

    Args:
      base_lr: L, the learning rate of the optimizer. **Traceable.**
      t_initial: T, the length of the first cycle in steps, > 0. **Traceable.**
      lr_min: E, >= 0. **Traceable.**
      cycle_mul: m, >= 1. **Traceable.**
      cycle_decay: d, the factor applied to the peak after each cycle. **Traceable.**
      cycle_limit: number of cycles. **Traceable.**
      warmup_t: W in steps. **Traceable.**
      warmup_lr_init: initial learning rate of the warmup. **Traceable.**
      warmup_prefix: whether cycles begin after the warmup. **Static.**
      k_decay: k, > 0. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate, or
      NaN if a traced number is out of range.

    Raises:
      ValueError: If a concrete number is out of range.
      TypeError: If an argument is not a number.

    Example:
      >>> from stabjax.compat.timm import cosine_lr_scheduler
      >>> schedule = cosine_lr_scheduler(0.8, 10, warmup_t=2, warmup_prefix=True)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 7, 12)]
      [0.0, 0.4, 0.8, 0.4, 0.0]

    References:
      Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.
      https://arxiv.org/abs/1608.03983
      Zhang and Li, k-decay: A New Method For Learning Rate Schedule, 2020.
      https://arxiv.org/abs/2004.05909
    """
    good = check("t_initial", t_initial, "> 0") & check("cycle_mul", cycle_mul, ">= 1")
    good &= check("lr_min", lr_min, ">= 0") & check("k_decay", k_decay, "> 0")
    steps = select(good, t_initial, 1)

    def cycles(count: Number) -> Number:
        cycle, position = cycle_of(count, steps, cycle_mul)
        high = base_lr * power_of(cycle_decay, cycle)
        # At 0, powers have no derivative or an infinite one.
        q = jnp.where(position > 0, position / steps, 1) ** k_decay
        value = lr_min + (high - lr_min) * half_cosine(1 - q)
        over = cycle >= cycle_limit
        return nan_unless(good, with_ends(value, high, position <= 0, lr_min, over))

    return _warmed_up(cycles, base_lr, warmup_t, warmup_lr_init, warmup_prefix)


@builder
def step_lr_scheduler(
    base_lr: Number,
    decay_t: Number,
    decay_rate: Number = 1.0,
    warmup_t: Number = 0,
    warmup_lr_init: Number = 0.0,
    warmup_prefix: bool = True,
) -> Schedule:
    """Returns the schedule of timm's `StepLRScheduler`.

        f(t) = L r^floor(c / n),    c = t - W, or t without `warmup_prefix`

    The decay is preceded by a linear warmup of W steps.

    Args:
      base_lr: L, the learning rate of the optimizer. **Traceable.**
      decay_t: n in steps, > 0. **Traceable.**
      decay_rate: r. **Traceable.**
      warmup_t: W in steps. **Traceable.**
      warmup_lr_init: initial learning rate of the warmup. **Traceable.**
      warmup_prefix: whether to count c from the end of the warmup. **Static.**

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate, or
      NaN if a traced `decay_t` is not > 0.

    Raises:
      ValueError: If a concrete `decay_t` is not > 0.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.timm.step_lr_scheduler(0.8, 30, 0.5, warmup_t=2)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 31, 32)]
      [0.0, 0.4, 0.8, 0.8, 0.4]
    """
    check("decay_t", decay_t, "> 0")
    stairs = torch.step_lr(base_lr, decay_t, decay_rate)
    return _warmed_up(stairs, base_lr, warmup_t, warmup_lr_init, warmup_prefix)


@builder
def multi_step_lr_scheduler(
    base_lr: Number,
    decay_t: Sequence[Number] | Number,
    decay_rate: Number = 1.0,
    warmup_t: Number = 0,
    warmup_lr_init: Number = 0.0,
    warmup_prefix: bool = True,
) -> Schedule:
    """Returns the schedule of timm's `MultiStepLRScheduler`.

        f(t) = L r^n(c),    n(c) = number of milestones <= c + 1

    Here c is t - W, or t without `warmup_prefix`. Like timm's scheduler, it decays one
    step before each milestone.

    Args:
      base_lr: L, the learning rate of the optimizer. **Traceable.**
      decay_t: milestones in steps, in any order. Their number is **static** and their
        values are **traceable**.
      decay_rate: r. **Traceable.**
      warmup_t: W in steps. **Traceable.**
      warmup_lr_init: initial learning rate of the warmup. **Traceable.**
      warmup_prefix: whether to count c from the end of the warmup. **Static.**

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate.

    Raises:
      TypeError: If an argument or a milestone is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.timm.multi_step_lr_scheduler(0.8, [30, 80], 0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 28, 29, 79)]
      [0.8, 0.8, 0.4, 0.2]
    """
    milestones = as_steps("decay_t", decay_t)
    jumps = shift_schedule(torch.multi_step_lr(base_lr, milestones, decay_rate), 1)
    return _warmed_up(jumps, base_lr, warmup_t, warmup_lr_init, warmup_prefix)


def _warmed_up(
    schedule: Schedule,
    base_lr: Number,
    warmup_t: Number,
    warmup_lr_init: Number,
    warmup_prefix: bool,
) -> Schedule:
    """Adds a linear warmup to a schedule that counts from step 0 or from step W."""
    warmup = linear_schedule(warmup_lr_init, base_lr, warmup_t)
    rest = schedule if warmup_prefix else shift_schedule(schedule, warmup_t)
    return join_schedules([warmup, rest], [warmup_t])
