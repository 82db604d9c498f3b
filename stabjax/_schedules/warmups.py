"""Warmups for Adam, with a length that depends on its decay rate."""

import jax.numpy as jnp
import numpy as np

from stabjax._arguments import check, nan_unless, select
from stabjax._schedules.counts import builder, later
from stabjax._types import Condition, Number, Schedule

# Search limit for RAdam's first count, which is 5 for common decay rates and 60 for the
# smallest float32 above 0.6.
_FIRST_COUNTS = 64


@builder
def exponential_warmup_schedule(peak_value: Number, timescale: Number) -> Schedule:
    """Returns a warmup that approaches its peak exponentially.

        f(t) = P (1 - exp(-(t + 1) / tau))

    Args:
      peak_value: P. Use 1 for a factor in `multiply_schedules`. **Traceable.**
      timescale: tau in steps, > 0. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced `timescale` is not > 0.

    Raises:
      ValueError: If a concrete `timescale` is not > 0.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.exponential_warmup_schedule(1.0, 4)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 2, 40)]
      [0.2212, 0.3935, 0.5276, 1.0]

    References:
      Ma and Yarats, On the Adequacy of Untuned Warmup for Adaptive Optimization, 2021.
      https://arxiv.org/abs/1910.04209
    """
    good = check("timescale", timescale, "> 0")
    scale = select(good, timescale, 1)

    def schedule(count: Number) -> Number:
        number = jnp.maximum(later(count, 1), 0)
        return nan_unless(good, -peak_value * jnp.expm1(-number / scale))

    return schedule


@builder
def untuned_linear_warmup_schedule(b2: Number) -> Schedule:
    """Returns the untuned linear warmup factor for Adam.

        f(t) = min(1, (t + 1) / tau),    tau = 2 / (1 - b2)

    To apply the factor without shifting the count of a schedule, use
    `multiply_schedules([schedule, untuned_linear_warmup_schedule(0.999)])`.

    Args:
      b2: Adam's decay rate of squared gradients, in [0, 1). For Python numbers, tau is
        rounded down in float64, as in the authors' implementation (1999 for 0.999
        because 1 - 0.999 is slightly more than 0.001). For arrays, it is not rounded.
        **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the factor, or NaN if
      a traced `b2` is not in [0, 1).

    Raises:
      ValueError: If a concrete `b2` is not in [0, 1).
      TypeError: If `b2` is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.untuned_linear_warmup_schedule(0.99)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 99, 198, 1000)]
      [0.005, 0.0101, 0.5025, 1.0, 1.0]

    References:
      Ma and Yarats, On the Adequacy of Untuned Warmup for Adaptive Optimization, 2021.
      https://arxiv.org/abs/1910.04209
    """
    good, length = _timescale(b2, 2)

    def schedule(count: Number) -> Number:
        number = jnp.maximum(later(count, 1), 0)
        value = jnp.where(number >= length, 1.0, jnp.minimum(number / length, 1))
        return nan_unless(good, value)

    return schedule


@builder
def untuned_exponential_warmup_schedule(b2: Number) -> Schedule:
    """Returns the untuned exponential warmup factor for Adam.

        f(t) = 1 - exp(-(t + 1) / tau),    tau = 1 / (1 - b2)

    Use `multiply_schedules` to apply the factor to a schedule.

    Args:
      b2: Adam's decay rate of squared gradients, in [0, 1). For Python numbers, tau is
        rounded down in float64, as in the authors' implementation (999 for 0.999). For
        arrays, it is not rounded. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the factor, or NaN if
      a traced `b2` is not in [0, 1).

    Raises:
      ValueError: If a concrete `b2` is not in [0, 1).
      TypeError: If `b2` is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.untuned_exponential_warmup_schedule(0.99)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 99, 1000)]
      [0.0101, 0.02, 0.6358, 1.0]

    References:
      Ma and Yarats, On the Adequacy of Untuned Warmup for Adaptive Optimization, 2021.
      https://arxiv.org/abs/1910.04209
    """
    good, timescale = _timescale(b2, 1)
    warmup = exponential_warmup_schedule(1.0, timescale)
    return lambda count: nan_unless(good, warmup(count))


def _timescale(b2: Number, factor: int) -> tuple[Condition, Number]:
    """Returns whether `b2` is in range, and `factor / (1 - b2)`."""
    good = check("b2", b2, "in [0, 1)")
    timescale = factor / (1 - select(good, b2, 0))
    return good, int(timescale) if isinstance(b2, int | float) else timescale


@builder
def radam_warmup_schedule(b2: Number) -> Schedule:
    """Returns RAdam's rectification term as a warmup factor for any optimizer.

        f(t) = sqrt((rho_n - 4) (rho_n - 2) rho / ((rho - 4) (rho - 2) rho_n))
        rho = 2 / (1 - b2) - 1,    rho_n = rho - 2 n b2^n / (1 - b2^n)

    Here n = t + n_0, and n_0 is the smallest n with rho_n > 4, which is 5 for common
    decay rates.

    Args:
      b2: Adam's decay rate of squared gradients, in (0.6, 1). **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the factor, or NaN if
      a traced `b2` is not in (0.6, 1).

    Raises:
      ValueError: If a concrete `b2` is not in (0.6, 1).
      TypeError: If `b2` is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.radam_warmup_schedule(0.99)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 99, 1000)]
      [0.0545, 0.0817, 0.645, 0.9998]

    References:
      Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, 2020.
      https://arxiv.org/abs/1908.03265
      As a warmup: Ma and Yarats, 2021. https://arxiv.org/abs/1910.04209
    """
    good = check("b2", b2, "in (0.6, 1)")
    gap = 1 - select(good, b2, 0.9)
    limit = 2 / gap - 1

    def rho(n: Number) -> Number:
        return _effective_length(n, gap)

    first = 1 + jnp.sum(rho(np.arange(1, _FIRST_COUNTS, dtype=np.float32)) <= 4)

    def schedule(count: Number) -> Number:
        length = rho(jnp.maximum(later(count, first), first))
        # The first length may round to 4, where the root has no derivative.
        over = jnp.maximum(length - 4, 1e-6)
        squared = over * (length - 2) / length
        squared *= limit / ((limit - 4) * (limit - 2))
        return nan_unless(good, jnp.minimum(jnp.sqrt(squared), 1))

    return schedule


def _effective_length(n: Number, gap: Number) -> Number:
    """Computes RAdam's rho_n for b2 = 1 - gap.

    Uses the form (2/g - 2/l - 1) + (2/l) (1 - x / (e^x - 1)) with l = -log(b2) and x =
    n l. For a small gap, both terms are computed from a series because the original
    formula subtracts numbers of size 2/g.
    """
    fall = -jnp.log1p(-gap)
    x = n * fall
    series = gap / 6 + gap**2 / 12 + gap**3 * (19 / 360) + gap**4 * (3 / 80)
    small_gap = jnp.asarray(gap) < 0.1
    start = jnp.where(small_gap, series, 2 / gap - 2 / fall - 1)
    near = x < 0.5
    y = jnp.where(near, x, 0.5)  # prevents overflow of unused values and derivatives
    short = y / 2 - y**2 / 12 + y**4 / 720 - y**6 / 30240
    long = 1 + x * jnp.exp(-x) / jnp.expm1(-x)
    return start + 2 / fall * jnp.where(near, short, long)
