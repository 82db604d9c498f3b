"""Cyclic schedules."""

import jax.numpy as jnp
from jax import lax

from stabjax._arguments import check, nan_unless, select
from stabjax._schedules.counts import builder, divmod_count, since
from stabjax._schedules.decays import cosine_decay_schedule
from stabjax._schedules.shapes import fraction_gone, fraction_left, with_ends, within
from stabjax._types import Number, Schedule


@builder
def cyclic_schedule(
    init_value: Number,
    peak_value: Number,
    up_steps: Number,
    down_steps: Number,
    cycle_factor: Number = 1.0,
    decay_rate: Number = 1.0,
) -> Schedule:
    """Returns a cyclic schedule that alternates linearly between two values.

    Let k be the cycle number, starting at 0, and c the number of steps in the cycle so
    far:

        f(t) = I + (P - I) a^k r^t h,   h = c / U for c <= U, (U + D - c) / D otherwise

    The paper's policies are a = r = 1 (triangular), a = 1/2 (triangular2) and r < 1
    (exp_range).

    Args:
      init_value: I, the value at the ends of each cycle. **Traceable.**
      peak_value: P, the peak of the first cycle. **Traceable.**
      up_steps: U in steps, > 0. **Traceable.**
      down_steps: D in steps, > 0. If U + D is a whole number, integer counts above
        2**24 are exact. **Traceable.**
      cycle_factor: a, the factor applied to the height after each cycle. **Traceable.**
      decay_rate: r, the factor applied to the height after each step. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if
      traced steps are not > 0.

    Raises:
      ValueError: If concrete steps are not > 0.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.cyclic_schedule(0.1, 1.1, 2, 4, cycle_factor=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 4, 6, 8)]
      [0.1, 0.6, 1.1, 0.6, 0.1, 0.6]

    References:
      Smith, Cyclical Learning Rates for Training Neural Networks, 2017.
      https://arxiv.org/abs/1506.01186
    """
    good = check("up_steps", up_steps, "> 0") & check("down_steps", down_steps, "> 0")
    up, down = select(good, up_steps, 1), select(good, down_steps, 1)

    def schedule(count: Number) -> Number:
        cycle, position = divmod_count(count, up + down)
        rising = fraction_gone(position, 0, up)
        # Exactly 1 at the peak, where XLA's c * (1 / U) may round differently.
        height = jnp.where(since(position, up) < 0, rising, 1.0)
        falling = fraction_left(position, up, down)
        height = jnp.where(since(position, up) > 0, falling, height)
        height *= power(cycle_factor, cycle) * power(decay_rate, count)
        value = init_value + (peak_value - init_value) * height
        # The peak value is exact, with the derivative of the product.
        exact = jnp.where(height == 1, peak_value, value)
        exact = jnp.where(height < 1, within(exact, init_value, peak_value), exact)
        return nan_unless(good, value + lax.stop_gradient(exact - value))

    return schedule


def power(base: Number, exponent: Number) -> Number:
    """Computes a float power. Exponent 0 yields 1 with a finite derivative."""
    exponent = jnp.asarray(exponent, jnp.result_type(exponent, float))
    zero = exponent <= 0
    return jnp.where(zero, 1.0, jnp.power(base, jnp.where(zero, 1, exponent)))


@builder
def cosine_restarts_schedule(
    peak_value: Number,
    period: Number,
    period_factor: Number = 1.0,
    peak_factor: Number = 1.0,
    end_value: Number = 0.0,
) -> Schedule:
    """Returns a cosine decay that restarts forever, with increasingly long cycles.

        f(t) = E + (P d^i - E) cos(pi (t - b_i) / (2 T m^i))^2
        for b_i <= t < b_{i+1} = b_i + T m^i,    b_0 = 0

    Args:
      peak_value: P, the peak of the first cycle. **Traceable.**
      period: T, the length of the first cycle in steps, > 0. If T is a whole number and
        `period_factor` is 1, integer counts above 2**24 are exact. **Traceable.**
      period_factor: m, the ratio of consecutive cycle lengths, >= 1. The Python number
        1 compiles to a simpler program. **Traceable.**
      peak_factor: d, the ratio of consecutive peaks. **Traceable.**
      end_value: E, which each cycle approaches before the next restart. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced argument is out of range.

    Raises:
      ValueError: If a concrete `period` is not > 0, or `period_factor` is not >= 1.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.cosine_restarts_schedule(1.0, 4, 2, peak_factor=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 4, 8, 12)]
      [1.0, 0.5, 0.5, 0.25, 0.25]

    References:
      Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.
      https://arxiv.org/abs/1608.03983
    """
    good = check("period", period, "> 0")
    good &= check("period_factor", period_factor, ">= 1")
    period = select(good, period, 1)
    wave = cosine_decay_schedule(1.0, period)

    def schedule(count: Number) -> Number:
        cycle, position = cycle_of(count, period, period_factor)
        peak = peak_value * power(peak_factor, cycle)
        height = wave(position)
        value = end_value + (peak - end_value) * height
        value = with_ends(value, peak, height == 1, end_value, height == 0)
        return nan_unless(good, value)

    return schedule


def cycle_of(count: Number, period: Number, factor: Number) -> tuple[Number, Number]:
    """Returns the cycle of a count, and the position scaled to the first cycle.

    Cycle i has `period * factor**i` steps.
    """
    if isinstance(factor, int | float) and factor == 1:
        return divmod_count(count, period)
    count, period, factor = (jnp.asarray(x) for x in (count, period, factor))
    cycle = lax.stop_gradient(_growing_cycle(count, period, factor))
    position = since(count, period * _cycles_before(cycle, factor))
    # Rounding may put the position outside its cycle.
    return cycle, jnp.clip(position / _whole_if(factor, factor**cycle), 0, period)


def _growing_cycle(count: Number, period: Number, factor: Number) -> Number:
    grows = factor > 1
    growth = jnp.where(grows, factor - 1, 1)
    elapsed = jnp.maximum(count / period, 0)
    cycle = jnp.floor(
        jnp.where(grows, jnp.log1p(growth * elapsed) / jnp.log1p(growth), elapsed)
    )
    # Due to rounding, the logarithm may be off by one at a boundary.
    starts = period * _cycles_before(cycle, factor)
    ends = period * _cycles_before(cycle + 1, factor)
    cycle = jnp.where(count >= ends, cycle + 1, cycle)
    return jnp.where(count < starts, jnp.maximum(cycle - 1, 0), cycle)


def _cycles_before(cycle: Number, factor: Number) -> Number:
    """Computes 1 + m + m^2 + ..., the relative length of all earlier cycles."""
    growth = factor - 1
    none = growth == 0
    growing = jnp.where(none, 1, growth)
    total = jnp.expm1(cycle * jnp.log1p(growing)) / growing
    steady = cycle + cycle * (cycle - 1) / 2 * growth  # to first order
    return _whole_if(factor, jnp.where(none, steady, total))


def _whole_if(factor: Number, number: Number) -> Number:
    """Rounds numbers that are whole if the factor is, keeping the derivative."""
    rounded = jnp.where(factor == jnp.floor(factor), jnp.round(number), number)
    return number + lax.stop_gradient(rounded - number)
