"""PyTorch's schedulers of one formula."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import optax

from stabjax._schedules.arguments import (
    ArrayLike,
    builder,
    check,
    check_positive,
    divmod_count,
    nan_unless,
    select,
    since,
)
from stabjax._schedules.compose import join_schedules
from stabjax._schedules.core import (
    constant_schedule,
    linear_schedule,
    polynomial_schedule,
)
from stabjax._schedules.cycles import power as power_of
from stabjax._schedules.shapes import half_wave
from stabjax.compat.torch.chains import chained_by


@builder
def step_lr(
    base_lr: ArrayLike, step_size: ArrayLike, gamma: ArrayLike = 0.1
) -> optax.Schedule:
    r"""Multiply by gamma every so many steps.

    .. math:: f(t) = L\,\gamma^{\lfloor t / n \rfloor}

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      step_size: :math:`n` in steps, positive. Traceable.
      gamma: :math:`\gamma`. Traceable.

    Returns:
      A function of the count, of any shape, that returns the rate, and NaN if
      `step_size` was traced and is not positive.

    Raises:
      ValueError: a concrete `step_size` is not positive.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.step_lr(0.8, step_size=30, gamma=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 29, 30, 60)]
      [0.8, 0.8, 0.4, 0.2]

    Source: PyTorch's `StepLR`.
    """
    good = check_positive(step_size=step_size)
    size = select(good, step_size, 1)

    def schedule(count: ArrayLike) -> ArrayLike:
        done, _ = divmod_count(count, size)
        return nan_unless(good, base_lr * power_of(gamma, done))

    return schedule


@builder
def multi_step_lr(
    base_lr: ArrayLike,
    milestones: Sequence[ArrayLike] | ArrayLike,
    gamma: ArrayLike = 0.1,
) -> optax.Schedule:
    r"""Multiply by gamma at each milestone.

    .. math:: f(t) = L\,\gamma^{|\{m : 0 \le m \le t\}|}

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      milestones: :math:`m` in steps, in any order; one that comes twice counts twice. A
        sequence or an array. How many is static, the steps are traceable.
      gamma: :math:`\gamma`. Traceable.

    Returns:
      A function of the count, of any shape, that returns the rate.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.multi_step_lr(0.8, [30, 80], gamma=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 29, 30, 80)]
      [0.8, 0.8, 0.4, 0.2]

    Source: PyTorch's `MultiStepLR`.
    """
    steps = tuple(milestones)

    def schedule(count: ArrayLike) -> ArrayLike:
        passed = jnp.zeros(jnp.shape(count))
        for step in steps:
            passed += (step >= 0) & (since(count, step) >= 0)
        return base_lr * power_of(gamma, passed)

    return schedule


@builder
def constant_lr(
    base_lr: ArrayLike, factor: ArrayLike = 1 / 3, total_iters: ArrayLike = 5
) -> optax.Schedule:
    r"""A fraction of the rate for some steps, and then all of it.

    .. math:: f(t) = \begin{cases} L\,a & t < T \text{ or } T \le 0 \\
        L & \text{otherwise} \end{cases}

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      factor: :math:`a`, between 0 and 1; with 0 PyTorch divides by zero at step T.
        Traceable.
      total_iters: :math:`T` in steps; zero or less keeps the fraction for ever, as in
        PyTorch. Traceable.

    Returns:
      A function of the count, of any shape, that returns the rate, and NaN if `factor`
      was traced and is not allowed.

    Raises:
      ValueError: a concrete `factor` is not between 0 and 1.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.constant_lr(0.8, factor=0.5, total_iters=4)
      >>> [round(float(schedule(count)), 4) for count in (0, 3, 4, 50)]
      [0.4, 0.4, 0.8, 0.8]

    Source: PyTorch's `ConstantLR`.
    """
    base_lr = nan_unless(_check_share("factor", factor), base_lr)
    end = select(total_iters <= 0, math.inf, total_iters)
    return join_schedules(
        [constant_schedule(base_lr * factor), constant_schedule(base_lr)], [end]
    )


@builder
def linear_lr(
    base_lr: ArrayLike,
    start_factor: ArrayLike = 1 / 3,
    end_factor: ArrayLike = 1.0,
    total_iters: ArrayLike = 5,
) -> optax.Schedule:
    r"""From one fraction of the rate to another in a straight line.

    .. math:: f(t) = L\,(a + (b - a) \min(t, T) / T)

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      start_factor: :math:`a`, greater than 0 and at most 1. Traceable.
      end_factor: :math:`b`, between 0 and 1. Traceable.
      total_iters: :math:`T` in steps; zero or less keeps the first fraction for ever,
        as in PyTorch. Traceable.

    Returns:
      A function of the count, of any shape, that returns the rate, and NaN if a factor
      was traced and is not allowed.

    Raises:
      ValueError: a concrete factor is not allowed.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.linear_lr(0.8, start_factor=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 5, 50)]
      [0.4, 0.48, 0.8, 0.8]

    Source: PyTorch's `LinearLR`.
    """
    good = check(
        "start_factor",
        start_factor,
        lambda x: (x > 0) & (x <= 1),
        "greater than 0 and at most 1",
    )
    good &= _check_share("end_factor", end_factor)
    base_lr = nan_unless(good, base_lr)
    return linear_schedule(base_lr * start_factor, base_lr * end_factor, total_iters)


@builder
def exponential_lr(base_lr: ArrayLike, gamma: ArrayLike) -> optax.Schedule:
    r"""Multiply by gamma at every step: :math:`f(t) = L\,\gamma^t`.

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      gamma: :math:`\gamma`. Traceable; a float32 array close to 1 has been rounded, and
        its t-th power t times as much, which a positive Python number is not.

    Returns:
      A function of the count, of any shape, that returns the rate.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.exponential_lr(0.8, gamma=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 3)]
      [0.8, 0.4, 0.2, 0.1]

    Source: PyTorch's `ExponentialLR`.
    """
    if isinstance(gamma, int | float) and gamma > 0:
        logarithm = math.log(gamma)
        return lambda count: base_lr * jnp.exp(logarithm * jnp.asarray(count))
    return lambda count: base_lr * power_of(gamma, count)


@builder
def polynomial_lr(
    base_lr: ArrayLike, total_iters: ArrayLike = 5, power: ArrayLike = 1.0
) -> optax.Schedule:
    r"""Down to zero along a power of the steps that remain.

    .. math:: f(t) = L\,(1 - \min(t, T) / T)^p

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      total_iters: :math:`T` in steps; zero or less holds the rate for ever, as in
        PyTorch. Traceable.
      power: :math:`p`. Traceable.

    Returns:
      A function of the count, of any shape, that returns the rate. At T the derivative
      of the power is taken to be 0 (for p < 1 it is infinite).

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.polynomial_lr(0.8, total_iters=4, power=2)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 4, 50)]
      [0.8, 0.45, 0.2, 0.0, 0.0]

    Source: PyTorch's `PolynomialLR`.
    """
    return polynomial_schedule(base_lr, 0.0, power, total_iters)


@builder
def cosine_annealing_lr(
    base_lr: ArrayLike, T_max: ArrayLike, eta_min: ArrayLike = 0.0
) -> optax.Schedule:
    r"""Down along half a wave of the cosine, and up again, for ever.

    .. math:: f(t) = E + (L - E)\,\frac{1 + \cos(\pi t / T)}{2}

    As in PyTorch the rate rises again after step T. What stays at its end is
    :func:`stabjax.cosine_decay_schedule`, or `lambda t: schedule(jnp.minimum(t, T))`.

    Args:
      base_lr: :math:`L`, the learning rate of the optimizer. Traceable.
      T_max: :math:`T` in steps, positive. Traceable.
      eta_min: :math:`E`, the rate at step T. Traceable.

    Returns:
      A function of the count, of any shape, that returns the rate, and NaN if `T_max`
      was traced and is not positive.

    Raises:
      ValueError: a concrete `T_max` is not positive.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.compat.torch.cosine_annealing_lr(0.8, T_max=10)
      >>> [round(float(schedule(count)), 4) for count in (0, 5, 10, 15, 20)]
      [0.8, 0.4, 0.0, 0.4, 0.8]

    Source: PyTorch's `CosineAnnealingLR`; Loshchilov and Hutter, SGDR: Stochastic
    Gradient Descent with Warm Restarts, 2017 (arXiv 1608.03983).
    """
    good = check_positive(T_max=T_max)
    steps = select(good, T_max, 1)

    def wave(count: ArrayLike) -> ArrayLike:
        _, position = divmod_count(count, 2 * steps)
        return half_wave(-since(position, steps) / steps)

    def schedule(count: ArrayLike) -> ArrayLike:
        return nan_unless(good, eta_min + (base_lr - eta_min) * wave(count))

    def step(count: ArrayLike, rate: ArrayLike) -> ArrayLike:
        _, last = divmod_count(count - 1, 2 * steps)
        rising = last == steps  # from a wave of 0, by which it cannot divide
        before = jnp.where(rising, 1, wave(count - 1))
        jump = rate + (base_lr - eta_min) * half_wave(1 / steps)
        ratio = wave(count) / before
        return jnp.where(rising, jump, eta_min + (rate - eta_min) * ratio)

    return chained_by(step, schedule)


def _check_share(name: str, value: ArrayLike) -> ArrayLike:
    return check(name, value, lambda x: (x >= 0) & (x <= 1), "between 0 and 1")
