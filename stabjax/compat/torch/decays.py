"""PyTorch's decaying schedulers."""

import math
from collections.abc import Sequence

import jax.numpy as jnp

from stabjax._arguments import as_number, check, nan_unless, select
from stabjax._schedules.compose import join_schedules
from stabjax._schedules.counts import builder, divmod_count, since
from stabjax._schedules.cycles import power as power_of
from stabjax._schedules.decays import (
    constant_schedule,
    linear_schedule,
    polynomial_schedule,
)
from stabjax._types import Number, Schedule


@builder
def step_lr(base_lr: Number, step_size: Number, gamma: Number = 0.1) -> Schedule:
    """Returns the schedule of PyTorch's `StepLR`.

        f(t) = L gamma^floor(t / n)

    Args:
      base_lr: L, the learning rate of the optimizer. **Traceable.**
      step_size: n in steps, > 0. **Traceable.**
      gamma: decay factor. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate, or
      NaN if a traced `step_size` is not > 0.

    Raises:
      ValueError: If a concrete `step_size` is not > 0.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.step_lr(0.8, step_size=30, gamma=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 29, 30, 60)]
      [0.8, 0.8, 0.4, 0.2]
    """
    good = check("step_size", step_size, "> 0")
    size = select(good, step_size, 1)

    def schedule(count: Number) -> Number:
        steps_done, _ = divmod_count(count, size)
        return nan_unless(good, base_lr * power_of(gamma, steps_done))

    return schedule


@builder
def multi_step_lr(
    base_lr: Number, milestones: Sequence[Number] | Number, gamma: Number = 0.1
) -> Schedule:
    """Returns the schedule of PyTorch's `MultiStepLR`.

        f(t) = L gamma^n(t),    n(t) = number of milestones m with 0 <= m <= t

    Args:
      base_lr: L, the learning rate of the optimizer. **Traceable.**
      milestones: steps m in any order. Repeated milestones count multiple times. Their
        number is **static** and their values are **traceable**.
      gamma: decay factor. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate.

    Raises:
      TypeError: If an argument or a milestone is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.multi_step_lr(0.8, [30, 80], gamma=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 29, 30, 80)]
      [0.8, 0.8, 0.4, 0.2]
    """
    steps = as_steps("milestones", milestones)

    def schedule(count: Number) -> Number:
        passed: Number = jnp.zeros(jnp.shape(count))
        for step in steps:
            passed = passed + ((step >= 0) & (since(count, step) >= 0))
        return base_lr * power_of(gamma, passed)

    return schedule


def as_steps(name: str, values: Sequence[Number] | Number) -> list[Number]:
    """Converts a sequence or an array to a list of step counts."""
    try:
        steps = tuple(values)  # type: ignore[arg-type]  # a float raises TypeError
    except TypeError:
        raise TypeError(
            f"{name} must be a sequence of steps, got {values!r}."
        ) from None
    return [as_number(name, step) for step in steps]


@builder
def constant_lr(
    base_lr: Number, factor: Number = 1 / 3, total_iters: Number = 5
) -> Schedule:
    """Returns the schedule of PyTorch's `ConstantLR`.

        f(t) = L a    for t < T, or for every t if T <= 0
        f(t) = L      otherwise

    Args:
      base_lr: L, the learning rate of the optimizer. **Traceable.**
      factor: a, in [0, 1]. With 0, PyTorch divides by zero at step T. **Traceable.**
      total_iters: T in steps. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate, or
      NaN if a traced `factor` is not in [0, 1].

    Raises:
      ValueError: If a concrete `factor` is not in [0, 1].
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.constant_lr(0.8, factor=0.5, total_iters=4)
      >>> [round(float(schedule(count)), 4) for count in (0, 3, 4, 50)]
      [0.4, 0.4, 0.8, 0.8]
    """
    base_lr = nan_unless(check("factor", factor, "in [0, 1]"), base_lr)
    end = select(total_iters <= 0, math.inf, total_iters)
    return join_schedules(
        [constant_schedule(base_lr * factor), constant_schedule(base_lr)], [end]
    )


@builder
def linear_lr(
    base_lr: Number,
    start_factor: Number = 1 / 3,
    end_factor: Number = 1.0,
    total_iters: Number = 5,
) -> Schedule:
    """Returns the schedule of PyTorch's `LinearLR`.

        f(t) = L (a + (b - a) min(t, T) / T)

    Args:
      base_lr: L, the learning rate of the optimizer. **Traceable.**
      start_factor: a, in (0, 1]. **Traceable.**
      end_factor: b, in [0, 1]. **Traceable.**
      total_iters: T in steps. If <= 0, the learning rate is always L a. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate. It
      is exactly L b from step T onwards, and NaN if a traced factor is out of range.

    Raises:
      ValueError: If a concrete factor is out of range.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.linear_lr(0.8, start_factor=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 5, 50)]
      [0.4, 0.48, 0.8, 0.8]
    """
    good = check("start_factor", start_factor, "in (0, 1]")
    good &= check("end_factor", end_factor, "in [0, 1]")
    base_lr = nan_unless(good, base_lr)
    return linear_schedule(base_lr * start_factor, base_lr * end_factor, total_iters)


@builder
def exponential_lr(base_lr: Number, gamma: Number) -> Schedule:
    """Returns the schedule of PyTorch's `ExponentialLR`.

        f(t) = L gamma^t

    Args:
      base_lr: L, the learning rate of the optimizer. **Traceable.**
      gamma: decay factor. For float32 arrays close to 1, the power amplifies the
        rounding error of gamma by a factor of t. Use a Python number > 0 to avoid this.
        **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate.

    Raises:
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.exponential_lr(0.8, gamma=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 3)]
      [0.8, 0.4, 0.2, 0.1]
    """
    if isinstance(gamma, int | float) and gamma > 0:
        logarithm = math.log(gamma)
        return lambda count: base_lr * jnp.exp(logarithm * count)
    return lambda count: base_lr * power_of(gamma, count)


@builder
def polynomial_lr(
    base_lr: Number, total_iters: Number = 5, power: Number = 1.0
) -> Schedule:
    """Returns the schedule of PyTorch's `PolynomialLR`.

        f(t) = L (1 - min(t, T) / T)^p

    Args:
      base_lr: L, the learning rate of the optimizer. **Traceable.**
      total_iters: T in steps. If <= 0, the learning rate is always L. **Traceable.**
      power: p. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the learning rate. It
      is exactly 0 from step T onwards. At T, the derivative of the power is defined as
      0. (For p < 1, it would be infinite.)

    Raises:
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.polynomial_lr(0.8, total_iters=4, power=2)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 4, 50)]
      [0.8, 0.45, 0.2, 0.0, 0.0]
    """
    return polynomial_schedule(base_lr, 0.0, power, total_iters)
