"""Warm-ups that need no length: factors for Adam, from its own decay rate."""

import jax.numpy as jnp
import numpy as np
import optax

from stabjax._schedules.arguments import (
    ArrayLike,
    builder,
    check,
    check_positive,
    later,
    nan_unless,
    select,
)

# RAdam's first count is looked for up to here; 5 for the usual decay rates, and 60 for
# the smallest float32 above 0.6.
_FIRST_COUNTS = 64


@builder
def exponential_warmup_schedule(
    peak_value: ArrayLike, timescale: ArrayLike
) -> optax.Schedule:
    r"""A warm-up that never quite ends.

    .. math:: f(t) = P \left(1 - e^{-(t + 1) / \tau}\right)

    Args:
      peak_value: :math:`P`; 1 makes a factor for :func:`multiply_schedules`. Traceable.
      timescale: :math:`\tau` in steps, positive. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if
      `timescale` was traced and is not positive.

    Raises:
      ValueError: a concrete `timescale` is not positive.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.exponential_warmup_schedule(1.0, 4)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 40)]
      [0.2212, 0.3935, 0.5276, 1.0]

    Source: Ma and Yarats, On the Adequacy of Untuned Warmup for Adaptive Optimization,
    2021 (arXiv 1910.04209).
    """
    good = check_positive(timescale=timescale)
    scale = select(good, timescale, 1)

    def schedule(count: ArrayLike) -> ArrayLike:
        number = jnp.maximum(later(count, 1), 0)
        return nan_unless(good, -peak_value * jnp.expm1(-number / scale))

    return schedule


@builder
def untuned_linear_warmup_schedule(b2: ArrayLike) -> optax.Schedule:
    r"""The linear warm-up that Adam needs, by its decay rate of squared gradients.

    .. math::
        f(t) = \min\left(1, \frac{t + 1}{\tau}\right), \qquad
        \tau = \frac{2}{1 - \beta_2}

    A factor: `multiply_schedules([schedule, untuned_linear_warmup_schedule(0.999)])`
    leaves the schedule's own count alone.

    Args:
      b2: :math:`\beta_2`, from 0 to below 1. Traceable. For a Python number
        :math:`\tau` is cut to an integer in float64, as in the authors' code (1999 for
        0.999, as 1 - 0.999 is a little more than a thousandth); for an array it is not.

    Returns:
      A function of the count, of any shape, that returns the factor, and NaN if `b2`
      was traced and is not allowed.

    Raises:
      ValueError: a concrete `b2` is negative, or not less than 1.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.untuned_linear_warmup_schedule(0.99)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 99, 198, 1000)]
      [0.005, 0.0101, 0.5025, 1.0, 1.0]

    Source: Ma and Yarats, On the Adequacy of Untuned Warmup for Adaptive Optimization,
    2021 (arXiv 1910.04209).
    """
    good, length = _time_of(b2, 2)

    def schedule(count: ArrayLike) -> ArrayLike:
        number = jnp.maximum(later(count, 1), 0)
        return nan_unless(good, jnp.minimum(number / length, 1))

    return schedule


@builder
def untuned_exponential_warmup_schedule(b2: ArrayLike) -> optax.Schedule:
    r"""The exponential warm-up that Adam needs, by its decay rate of squared gradients.

    .. math:: f(t) = 1 - e^{-(t + 1) / \tau}, \qquad \tau = \frac{1}{1 - \beta_2}

    A factor, which :func:`multiply_schedules` puts on any schedule.

    Args:
      b2: :math:`\beta_2`, from 0 to below 1. Traceable. For a Python number
        :math:`\tau` is cut to an integer in float64, as in the authors' code (999 for
        0.999); for an array it is not.

    Returns:
      A function of the count, of any shape, that returns the factor, and NaN if `b2`
      was traced and is not allowed.

    Raises:
      ValueError: a concrete `b2` is negative, or not less than 1.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.untuned_exponential_warmup_schedule(0.99)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 99, 1000)]
      [0.0101, 0.02, 0.6358, 1.0]

    Source: Ma and Yarats, On the Adequacy of Untuned Warmup for Adaptive Optimization,
    2021 (arXiv 1910.04209).
    """
    good, timescale = _time_of(b2, 1)
    warmup = exponential_warmup_schedule(1.0, timescale)
    return lambda count: nan_unless(good, warmup(count))


def _time_of(b2: ArrayLike, factor: int) -> tuple[ArrayLike, ArrayLike]:
    """Whether `b2` is allowed, and `factor / (1 - b2)`."""
    good = check("b2", b2, lambda x: (x >= 0) & (x < 1), "from 0 to below 1")
    time = factor / (1 - select(good, b2, 0))
    return good, int(time) if isinstance(b2, int | float) else time


@builder
def radam_warmup_schedule(b2: ArrayLike) -> optax.Schedule:
    r"""The factor by which RAdam corrects Adam, as a warm-up for any optimizer.

    .. math::
        f(t) = \sqrt{\frac{(\rho_n - 4)(\rho_n - 2)\,\rho_\infty}
        {(\rho_\infty - 4)(\rho_\infty - 2)\,\rho_n}}, \qquad
        \rho_n = \rho_\infty - \frac{2 n \beta_2^n}{1 - \beta_2^n}, \quad
        \rho_\infty = \frac{2}{1 - \beta_2} - 1

    with :math:`n = t + n_0`, where :math:`n_0` is the first with :math:`\rho_n > 4`:
    5 for the usual decay rates.

    Args:
      b2: :math:`\beta_2`, from above 0.6 to below 1. Traceable.

    Returns:
      A function of the count, of any shape, that returns the factor, and NaN if `b2`
      was traced and is not allowed.

    Raises:
      ValueError: a concrete `b2` is not between 0.6 and 1.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.radam_warmup_schedule(0.99)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 99, 1000)]
      [0.0545, 0.0817, 0.645, 0.9998]

    Source: Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, 2020
    (arXiv 1908.03265), as a warm-up by Ma and Yarats, 2021 (arXiv 1910.04209).
    """
    good = check("b2", b2, lambda x: (x > 0.6) & (x < 1), "between 0.6 and 1")
    gap = 1 - select(good, b2, 0.9)
    infinite = 2 / gap - 1

    def rho(n: ArrayLike) -> ArrayLike:
        return _effective_length(n, gap)

    first = 1 + jnp.sum(rho(np.arange(1, _FIRST_COUNTS, dtype=np.float32)) <= 4)

    def schedule(count: ArrayLike) -> ArrayLike:
        length = rho(jnp.maximum(later(count, first), first))
        # Rounded, the first might fall to 4, where the root has no derivative.
        over = jnp.maximum(length - 4, 1e-6)
        squared = over * (length - 2) / length
        squared *= infinite / ((infinite - 4) * (infinite - 2))
        return nan_unless(good, jnp.sqrt(squared))

    return schedule


def _effective_length(n: ArrayLike, gap: ArrayLike) -> ArrayLike:
    r"""RAdam's :math:`\rho_n` for :math:`\beta_2` = 1 - gap.

    Written as :math:`(2/g - 2/l - 1) + (2/l)\,(1 - x / (e^x - 1))` with
    :math:`l = -\log \beta_2` and x = nl: both brackets are small where the gap is, and
    have a series there, while the formula itself is a difference of numbers like 2/g.
    """
    fall = -jnp.log1p(-gap)
    x = n * fall
    series = gap / 6 + gap**2 / 12 + gap**3 * (19 / 360) + gap**4 * (3 / 80)
    small_gap = jnp.asarray(gap) < 0.1
    start = jnp.where(small_gap, series, 2 / gap - 2 / fall - 1)
    near = x < 0.5
    y = jnp.where(near, x, 0.5)  # a large x would overflow, and its derivative with it
    short = y / 2 - y**2 / 12 + y**4 / 720 - y**6 / 30240
    long = 1 + x * jnp.exp(-x) / jnp.expm1(-x)
    return start + 2 / fall * jnp.where(near, short, long)
