"""timm's schedulers that jump."""

from collections.abc import Sequence

import optax

from stabjax._schedules.arguments import ArrayLike, builder, check_positive
from stabjax._schedules.wrappers import shift_schedule
from stabjax.compat import torch
from stabjax.compat.timm.warmup import warmed_up


@builder
def step_lr_scheduler(
    base_lr: ArrayLike,
    decay_t: ArrayLike,
    decay_rate: ArrayLike = 1.0,
    warmup_t: ArrayLike = 0,
    warmup_lr_init: ArrayLike = 0.0,
    warmup_prefix: bool = True,
) -> optax.Schedule:
    r"""Multiply by a rate every so many steps, with a warm-up.

    .. math:: f(t) = L\,r^{\lfloor c / n \rfloor}

    with c = t - W, or t without `warmup_prefix`.

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      decay_t: :math:`n` in steps, positive. Traceable.
      decay_rate: :math:`r`. Traceable.
      warmup_t: :math:`W` in steps. Traceable.
      warmup_lr_init: the rate at step 0 of a warm-up. Traceable.
      warmup_prefix: whether the steps are counted from the end of the warm-up. Static.

    Returns:
      A function of the count, of any shape, that returns the rate, and NaN if
      `decay_t` was traced and is not positive.

    Raises:
      ValueError: a concrete `decay_t` is not positive.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.timm.step_lr_scheduler(0.8, 30, 0.5, warmup_t=2)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 31, 32)]
      [0.0, 0.4, 0.8, 0.8, 0.4]

    Source: timm's `StepLRScheduler`.
    """
    check_positive(decay_t=decay_t)
    stairs = torch.step_lr(base_lr, decay_t, decay_rate)
    return warmed_up(stairs, base_lr, warmup_t, warmup_lr_init, warmup_prefix)


@builder
def multi_step_lr_scheduler(
    base_lr: ArrayLike,
    decay_t: Sequence[ArrayLike] | ArrayLike,
    decay_rate: ArrayLike = 1.0,
    warmup_t: ArrayLike = 0,
    warmup_lr_init: ArrayLike = 0.0,
    warmup_prefix: bool = True,
) -> optax.Schedule:
    r"""Multiply by a rate a step before each milestone, with a warm-up.

    .. math:: f(t) = L\,r^{|\{m : m \le c + 1\}|}

    with c = t - W, or t without `warmup_prefix`. In PyTorch's schedulers a milestone
    acts at its own step.

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      decay_t: :math:`m` in steps, a sequence or an array. How many is static, the steps
        are traceable.
      decay_rate: :math:`r`. Traceable.
      warmup_t: :math:`W` in steps. Traceable.
      warmup_lr_init: the rate at step 0 of a warm-up. Traceable.
      warmup_prefix: whether the steps are counted from the end of the warm-up. Static.

    Returns:
      A function of the count, of any shape, that returns the rate.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.timm.multi_step_lr_scheduler(0.8, [30, 80], 0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 28, 29, 79)]
      [0.8, 0.8, 0.4, 0.2]

    Source: timm's `MultiStepLRScheduler`.
    """
    jumps = shift_schedule(torch.multi_step_lr(base_lr, decay_t, decay_rate), 1)
    return warmed_up(jumps, base_lr, warmup_t, warmup_lr_init, warmup_prefix)
