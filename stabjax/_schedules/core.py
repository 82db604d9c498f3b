"""Schedules of one piece: from a count of updates to a value."""

import jax
import jax.numpy as jnp
import optax

from stabjax._schedules.arguments import (
    ArrayLike,
    builder,
    check_positive,
    nan_unless,
    select,
)


def constant_schedule(value: ArrayLike) -> optax.Schedule:
    r"""A value that never changes: :math:`f(t) = v`.

    Args:
      value: the value :math:`v`, of any type and shape. Traceable.

    Returns:
      A function of the count that returns the very object `value`.

    Example:
      >>> import stabjax
      >>> stabjax.constant_schedule(0.3)(100)
      0.3

    Source: Optax's schedule of this name.
    """
    return lambda count: value


@builder
def polynomial_schedule(
    init_value: ArrayLike,
    end_value: ArrayLike,
    power: ArrayLike,
    transition_steps: ArrayLike,
    transition_begin: ArrayLike = 0,
) -> optax.Schedule:
    r"""From one value to another along a power of the steps that remain.

    .. math:: f(t) = E + (I - E)\,(1 - q)^p, \quad q = \mathrm{clip}(t - B, 0, T) / T

    Args:
      init_value: :math:`I`, the value up to step B. Traceable.
      end_value: :math:`E`, the value from step B + T on. Traceable.
      power: :math:`p`; 1 is a straight line, and 0 holds `init_value` for ever.
        Traceable.
      transition_steps: :math:`T` in steps; zero or less holds `init_value` for ever.
        Traceable.
      transition_begin: :math:`B` in steps; a negative one counts as 0. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value. Where q = 1 the
      derivative of the power is taken to be 0 (for p < 1 it is infinite).

    Example:
      >>> import stabjax
      >>> schedule = stabjax.polynomial_schedule(1.0, 0.0, 2, transition_steps=10)
      >>> [round(float(schedule(count)), 4) for count in (0, 5, 10, 50)]
      [1.0, 0.25, 0.0, 0.0]

    Source: Optax's schedule of this name.
    """
    off = transition_steps <= 0
    steps = select(off, 1, transition_steps)
    begin = select(transition_begin < 0, 0, transition_begin)

    def schedule(count: ArrayLike) -> ArrayLike:
        elapsed = jnp.clip(count - begin, 0, steps)
        left = 1 - elapsed / steps
        # Compiled, XLA multiplies by the inverse of the steps, rounded, which may leave
        # a little at the end, or less than nothing; and a root of that is NaN.
        ended = (elapsed >= steps) | (left <= 0)
        value = (init_value - end_value) * _power(left, power, ended) + end_value
        return select(off, init_value, value)

    return schedule


@builder
def linear_schedule(
    init_value: ArrayLike,
    end_value: ArrayLike,
    transition_steps: ArrayLike,
    transition_begin: ArrayLike = 0,
) -> optax.Schedule:
    r"""From one value to another in a straight line.

    .. math:: f(t) = E + (I - E)\,(1 - q), \quad q = \mathrm{clip}(t - B, 0, T) / T

    Args:
      init_value: :math:`I`, the value up to step B. Traceable.
      end_value: :math:`E`, the value from step B + T on. Traceable.
      transition_steps: :math:`T` in steps; zero or less holds `init_value` for ever.
        Traceable.
      transition_begin: :math:`B` in steps; a negative one counts as 0. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.linear_schedule(0.0, 1.0, 4, transition_begin=2)
      >>> [float(schedule(count)) for count in (0, 2, 3, 4, 6, 50)]
      [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]

    Source: Optax's schedule of this name.
    """
    return polynomial_schedule(
        init_value, end_value, 1, transition_steps, transition_begin
    )


@builder
def exponential_decay(
    init_value: ArrayLike,
    transition_steps: ArrayLike,
    decay_rate: ArrayLike,
    transition_begin: ArrayLike = 0,
    staircase: bool = False,
    end_value: ArrayLike | None = None,
) -> optax.Schedule:
    r"""Multiply by a rate every so many steps, smoothly or in stairs.

    .. math:: f(t) = I\,r^q, \quad q = \max(t - B, 0) / T

    and :math:`\lfloor q \rfloor` for q in stairs. An `end_value` E bounds it at every
    count: :math:`\max(f, E)` if r < 1, else :math:`\min(f, E)`.

    Args:
      init_value: :math:`I`, the value up to step B. Traceable.
      transition_steps: :math:`T` in steps; zero or less holds `init_value` for ever.
        Traceable.
      decay_rate: :math:`r`; zero holds `init_value` for ever, and a negative one gives
        NaN wherever q is no integer. Traceable.
      transition_begin: :math:`B` in steps; a negative one counts as 0. Traceable.
      staircase: whether to take whole transitions only. Static.
      end_value: the bound :math:`E`, or None for none. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.exponential_decay(0.8, 10, 0.5, end_value=0.1)
      >>> [round(float(schedule(count)), 4) for count in (0, 5, 10, 20, 50)]
      [0.8, 0.5657, 0.4, 0.2, 0.1]

    Source: Optax's schedule of this name.
    """
    off = (transition_steps <= 0) | (decay_rate == 0)
    steps = select(off, 1, transition_steps)
    rate = select(off, 1, decay_rate)
    begin = select(transition_begin < 0, 0, transition_begin)

    def schedule(count: ArrayLike) -> ArrayLike:
        elapsed = count - begin
        elapsed = select(elapsed < 0, 0, elapsed)
        periods = elapsed / steps
        if staircase:
            # XLA multiplies by the rounded inverse of a divisor that counts share, and
            # 14 / 7 may fall short of 2: so each count divides by its own.
            periods = jnp.floor(elapsed / select(elapsed > 0, steps, 1))
        value = init_value * jnp.power(rate, periods)
        if end_value is not None:
            value = bounded(value, periods, end_value)
        return select(off, init_value, value)

    def bounded(value: ArrayLike, periods: ArrayLike, bound: ArrayLike) -> ArrayLike:
        # Beyond its bound a growing value may overflow, and its derivative be 0 * inf.
        beyond = select(rate < 1, value < bound, value > bound)
        value = init_value * jnp.power(rate, jnp.where(beyond, 0, periods))
        value = jnp.where(beyond, bound, value)
        return select(rate < 1, jnp.maximum(value, bound), jnp.minimum(value, bound))

    return schedule


@builder
def cosine_decay_schedule(
    init_value: ArrayLike,
    decay_steps: ArrayLike,
    alpha: ArrayLike = 0.0,
    exponent: ArrayLike = 1.0,
) -> optax.Schedule:
    r"""From a value down to a fraction of it along half a wave of the cosine.

    .. math::
        f(t) = I \left[ (1 - \alpha) \left( \frac{1 + \cos(\pi \min(t, T) / T)}{2}
        \right)^p + \alpha \right]

    Args:
      init_value: :math:`I`, the value at step 0. Traceable.
      decay_steps: :math:`T` in steps, positive. Traceable.
      alpha: :math:`\alpha`, the fraction that is left at the end. Traceable.
      exponent: :math:`p`; 0 holds `init_value` for ever. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if
      `decay_steps` was traced and is not positive. Where the cosine is -1 the
      derivative of the power is taken to be 0 (for p < 1/2 it is infinite). If
      `decay_steps` is an array the wave is computed as the square of a sine, and stays
      accurate to the last digits near its end; for a Python number it is Optax's
      :math:`1 + \cos`, to the last bit, which is rounded at 6e-8 of the peak.

    Raises:
      ValueError: a concrete `decay_steps` is not positive.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.cosine_decay_schedule(0.8, decay_steps=10, alpha=0.1)
      >>> [round(float(schedule(count)), 4) for count in (0, 5, 10, 50)]
      [0.8, 0.44, 0.08, 0.08]

    Source: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts,
    2017 (arXiv 1608.03983).
    """
    init_value = nan_unless(check_positive(decay_steps=decay_steps), init_value)

    def schedule(count: ArrayLike) -> ArrayLike:
        # Python integers may exceed what int32 holds.
        count, steps = (
            float(x) if isinstance(x, int) else x for x in (count, decay_steps)
        )
        elapsed = jnp.minimum(count, steps)
        if isinstance(steps, int | float):
            wave = 0.5 * (1 + jnp.cos(jnp.pi * elapsed / steps))  # Optax's very bits
        else:
            wave = jnp.square(jnp.sin(jnp.pi / 2 * ((steps - elapsed) / steps)))
        shape = _power(wave, exponent, wave <= 0)
        return init_value * ((1 - alpha) * shape + alpha)

    return schedule


def _power(base: jax.Array, exponent: ArrayLike, at_zero: jax.Array) -> jax.Array:
    """`base ** exponent`, and as if base were 0, with no derivative, if `at_zero`."""
    if isinstance(exponent, int) and exponent > 0:
        return base**exponent  # a product: it has its derivative everywhere
    return jnp.where(
        at_zero, jnp.power(0.0, exponent), jnp.where(at_zero, 1, base) ** exponent
    )
