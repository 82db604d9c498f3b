"""Schedules that come back: triangles, and restarts."""

import jax.numpy as jnp
import optax
from jax import lax

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
from stabjax._schedules.core import cosine_decay_schedule


@builder
def cyclic_schedule(
    init_value: ArrayLike,
    peak_value: ArrayLike,
    up_steps: ArrayLike,
    down_steps: ArrayLike,
    cycle_factor: ArrayLike = 1.0,
    decay_rate: ArrayLike = 1.0,
) -> optax.Schedule:
    r"""Up and down between two values in straight lines, again and again.

    With :math:`k` the number of the cycle, from 0, and :math:`c` the steps in it,

    .. math::
        f(t) = I + (P - I)\, a^k r^t h, \qquad h = \begin{cases} c / U & c \le U \\
        (U + D - c) / D & c > U \end{cases}

    The policies of the paper are :math:`a = r = 1` (triangular), :math:`a = 1/2`
    (triangular2) and :math:`r < 1` (exp_range).

    Args:
      init_value: :math:`I`, the value at both ends of a cycle. Traceable.
      peak_value: :math:`P`, the value at the peak of the first cycle. Traceable.
      up_steps: :math:`U` in steps, positive. Traceable.
      down_steps: :math:`D` in steps, positive. Traceable. If U + D has no fraction,
        counts beyond 2**24 stay exact.
      cycle_factor: :math:`a`, what is left of the height from one cycle to the next.
        Traceable.
      decay_rate: :math:`r`, what is left of the height from one step to the next.
        Traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if steps
      were traced and are not positive.

    Raises:
      ValueError: concrete steps are not positive.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.cyclic_schedule(0.1, 1.1, 2, 4, cycle_factor=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 4, 6, 8)]
      [0.1, 0.6, 1.1, 0.6, 0.1, 0.6]

    Source: Smith, Cyclical Learning Rates for Training Neural Networks, 2017
    (arXiv 1506.01186).
    """
    good = check_positive(up_steps=up_steps, down_steps=down_steps)
    up, down = select(good, up_steps, 1), select(good, down_steps, 1)

    def schedule(count: ArrayLike) -> ArrayLike:
        cycle, position = divmod_count(count, up + down)
        height = jnp.where(
            position <= up, position / up, -since(position, up + down) / down
        )
        height *= _power(cycle_factor, cycle) * _power(decay_rate, count)
        return nan_unless(good, init_value + (peak_value - init_value) * height)

    return schedule


def _power(base: ArrayLike, exponent: ArrayLike) -> ArrayLike:
    """The power of a float, 1 for the exponent 0 and without infinite derivatives."""
    exponent = jnp.asarray(exponent, jnp.result_type(exponent, float))
    nothing = exponent <= 0
    return jnp.where(nothing, 1.0, jnp.power(base, jnp.where(nothing, 1, exponent)))


@builder
def cosine_restarts_schedule(
    peak_value: ArrayLike,
    period: ArrayLike,
    period_factor: ArrayLike = 1.0,
    peak_factor: ArrayLike = 1.0,
    end_value: ArrayLike = 0.0,
) -> optax.Schedule:
    r"""Half waves of the cosine, restarted for ever, each longer than the one before.

    .. math::
        f(t) = E + (P d^i - E) \cos^2\left(\frac{\pi}{2} \frac{t - b_i}{T m^i}\right)
        \quad \text{for } b_i \le t < b_{i+1} = b_i + T m^i, \quad b_0 = 0

    Args:
      peak_value: :math:`P`, the value at the start of the first cycle. Traceable.
      period: :math:`T`, the length of the first cycle, in steps. Traceable; without a
        fraction, and with `period_factor` 1, counts beyond 2**24 stay exact.
      period_factor: :math:`m`, each cycle's length by that of the one before, at least
        1. Traceable; the Python number 1 costs nothing.
      peak_factor: :math:`d`, each cycle's peak by that of the one before. Traceable.
      end_value: :math:`E`, to which each cycle goes, and never gets before the next
        begins. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if an
      argument was traced and is none of those allowed.

    Raises:
      ValueError: a concrete `period` is not positive, a `period_factor` less than 1.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.cosine_restarts_schedule(1.0, 4, 2, peak_factor=0.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 4, 8, 12)]
      [1.0, 0.5, 0.5, 0.25, 0.25]

    Source: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts,
    2017 (arXiv 1608.03983).
    """
    good = check_positive(period=period)
    good &= check("period_factor", period_factor, lambda x: x >= 1, "1 or greater")
    wave = cosine_decay_schedule(1.0, select(good, period, 1))

    def schedule(count: ArrayLike) -> ArrayLike:
        cycle, position = cycle_of(count, select(good, period, 1), period_factor)
        peak = peak_value * _power(peak_factor, cycle)
        return nan_unless(good, end_value + (peak - end_value) * wave(position))

    return schedule


def cycle_of(
    count: ArrayLike, period: ArrayLike, factor: ArrayLike
) -> tuple[ArrayLike, ArrayLike]:
    """The cycle that a count is in, and its position as if that were the first cycle.

    Cycle i has `period * factor**i` steps.
    """
    if isinstance(factor, int | float) and factor == 1:
        return divmod_count(count, period)
    count, period, factor = (jnp.asarray(x) for x in (count, period, factor))
    cycle = lax.stop_gradient(_growing_cycle(count, period, factor))
    position = since(count, period * _cycles_before(cycle, factor))
    # Rounded, it may fall out of its cycle.
    return cycle, jnp.clip(position / _whole_if(factor, factor**cycle), 0, period)


def _growing_cycle(count: ArrayLike, period: ArrayLike, factor: ArrayLike) -> ArrayLike:
    grows = factor > 1
    growth = jnp.where(grows, factor - 1, 1)
    elapsed = jnp.maximum(count / period, 0)
    cycle = jnp.floor(
        jnp.where(grows, jnp.log1p(growth * elapsed) / jnp.log1p(growth), elapsed)
    )
    # Rounded, the logarithm may be off by one at a boundary.
    starts = period * _cycles_before(cycle, factor)
    ends = period * _cycles_before(cycle + 1, factor)
    cycle = jnp.where(count >= ends, cycle + 1, cycle)
    return jnp.where(count < starts, jnp.maximum(cycle - 1, 0), cycle)


def _cycles_before(cycle: ArrayLike, factor: ArrayLike) -> ArrayLike:
    """Lengths of all cycles before this one, by that of the first: 1 + m + m^2 + ..."""
    growth = factor - 1
    none = growth == 0
    growing = jnp.where(none, 1, growth)
    total = jnp.expm1(cycle * jnp.log1p(growing)) / growing
    steady = cycle + cycle * (cycle - 1) / 2 * growth  # to first order
    return _whole_if(factor, jnp.where(none, steady, total))


def _whole_if(factor: ArrayLike, number: ArrayLike) -> ArrayLike:
    """Rounds what is whole if the factor is; the derivative stays."""
    rounded = jnp.where(factor == jnp.floor(factor), jnp.round(number), number)
    return number + lax.stop_gradient(rounded - number)
