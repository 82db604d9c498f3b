"""What theory says of a schedule before, and after, anything is trained."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from stabjax._schedules.arguments import (
    ArrayLike,
    builder,
    check,
    check_positive,
    nan_unless,
    standard_promotion,
)
from stabjax._schedules.core import constant_schedule
from stabjax._schedules.wrappers import with_cooldown

_HALVINGS = 40  # of an interval: more than float32 can tell apart


class ScheduleBound(NamedTuple):
    """What :func:`schedule_bound` returns.

    Attributes:
      value: the bound of the schedule as it is.
      best_rate: the number to multiply the schedule with, so that the bound is least.
      best_value: the bound of the schedule times `best_rate`.
    """

    value: jax.Array
    best_rate: jax.Array
    best_value: jax.Array


@standard_promotion
def schedule_bound(
    schedule: optax.Schedule,
    steps: int,
    *,
    distance: ArrayLike = 1.0,
    gradient_norms: ArrayLike = 1.0,
) -> ScheduleBound:
    r"""How far from the minimum a schedule may end, in the worst case.

    For (stochastic) subgradient steps :math:`x_{t+1} = x_t - \eta_t g_t` on a convex
    function, with :math:`\|x_1 - x_*\| \le D` and :math:`E \|g_t\|^2 \le G_t^2`, the
    last iterate is bounded by :math:`E f(x_T) - f_* \le \Omega`,

    .. math::
        \Omega = \frac{D^2}{2 S_1} + \frac{Q_1}{2 S_1} +
        \frac12 \sum_{k=1}^{T-1} \frac{\eta_k}{S_{k+1}} \frac{Q_k}{S_k}, \qquad
        S_k = \sum_{t=k}^T \eta_t, \quad Q_k = \sum_{t=k}^T \eta_t^2 G_t^2

    with :math:`\eta_t = f(t - 1)`. Of :math:`\gamma f` the bound is
    :math:`\Omega_1 / \gamma + \gamma \Omega_2`, with :math:`\Omega_1` its first term,
    and so least for :math:`\gamma_* = \sqrt{\Omega_1 / \Omega_2}`. Schedules are ranked
    by what they reach at their best rates.

    Args:
      schedule: :math:`f`, any function of the count; its numbers may be traced.
      steps: :math:`T`, the number of updates; static.
      distance: :math:`D`, from the start to a minimum. Traceable.
      gradient_norms: :math:`G_t`, a number or one for each step. Traceable.

    Returns:
      A :class:`ScheduleBound` of scalars: `value` :math:`\Omega`, `best_rate`
      :math:`\gamma_*`, `best_value` :math:`2 \sqrt{\Omega_1 \Omega_2}`. Their sums are
      float32, good to about five digits for thousands of steps.

    Raises:
      ValueError: `steps` is not positive; a concrete `distance` is not positive, or
        `gradient_norms` are negative.

    Example:
      >>> import stabjax
      >>> linear = stabjax.linear_schedule(1.0, 0.0, 400)
      >>> cosine = stabjax.cosine_decay_schedule(1.0, 400)
      >>> trapezoid = stabjax.wsd_schedule(1.0, 0, 320, 80)
      >>> for schedule in (linear, cosine, trapezoid):
      ...     bound = stabjax.schedule_bound(schedule, 400)
      ...     print(f"{bound.best_value:.4f} at {bound.best_rate:.4f}")
      0.1006 at 0.0496
      0.1034 at 0.0482
      0.1093 at 0.0254

    Source: Schaipp, Haegele, Taylor, Simsekli and Bach, The Surprising Agreement
    Between Convex Optimization Theory and Learning-Rate Scheduling for Large Model
    Training, 2025 (arXiv 2501.18965).
    """
    good = check_positive(steps=steps)
    good &= check_positive(distance=distance)
    good &= check("gradient_norms", gradient_norms, lambda x: x >= 0, "zero or greater")
    good = jnp.all(jnp.asarray(good))
    rates = jax.vmap(lambda count: jnp.asarray(schedule(count)))(jnp.arange(steps))
    dtype = jnp.result_type(rates, float)
    distance, norms = (jnp.asarray(x, dtype) for x in (distance, gradient_norms))
    first, second = _terms(rates.astype(dtype), distance, norms)
    bound = first + second, jnp.sqrt(first / second), 2 * jnp.sqrt(first * second)
    return ScheduleBound(*(nan_unless(good, value) for value in bound))


@jax.jit
def _terms(
    rates: jax.Array, distance: jax.Array, norms: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What falls with the rate, and what grows with it."""
    sums = _sums_from(rates)
    spent = _sums_from(jnp.square(rates * norms)) / jnp.where(sums > 0, sums, 1)
    # After the last step that moves there is nothing left to sum.
    moves = sums[1:] > 0
    later = jnp.where(moves, rates[:-1] / jnp.where(moves, sums[1:], 1), 0)
    first = jnp.square(distance) / 2 / sums[0]
    return first, spent[0] / 2 + jnp.sum(later * spent[:-1]) / 2


def _sums_from(values: jax.Array) -> jax.Array:
    """The sum from each entry to the last."""
    return lax.cumsum(values, reverse=True)


def best_cooldown_fraction(
    steps: int, base_rate: ArrayLike, shape: str = "linear", candidates: int = 100
) -> jax.Array:
    r"""The share of a run with constant rate that is best spent cooling down.

    It makes the :func:`schedule_bound` (with D = G = 1) least for a rate that is given.
    Were the rate tuned for each share, a straight line over the whole run would be
    best; at a rate tuned for something else the best share lies in between.

    Args:
      steps: length of the run; static.
      base_rate: the rate before the cool-down, by D/G: a `best_rate` of
        :func:`schedule_bound`, or a multiple. Traceable.
      shape: of the cool-down, as in :func:`with_cooldown`. Static.
      candidates: how many evenly spaced shares from 1/candidates to 1 are tried;
        static.

    Returns:
      The best of the candidates, a scalar.

    Raises:
      ValueError: `steps` is not positive; an unknown or exponential shape.

    Example:
      >>> import stabjax
      >>> rates = [0.02, 0.04, 0.05]
      >>> best = [stabjax.best_cooldown_fraction(400, rate) for rate in rates]
      >>> [round(float(fraction), 2) for fraction in best]
      [0.29, 0.79, 1.0]

    Source: Schaipp et al., 2025 (arXiv 2501.18965).
    """

    def bound(fraction: jax.Array) -> jax.Array:
        plateau = constant_schedule(base_rate)
        start, length = (1 - fraction) * steps, fraction * steps
        schedule = with_cooldown(plateau, start, length, shape)
        return schedule_bound(schedule, steps).value

    fractions = jnp.arange(1, candidates + 1) / candidates
    best: jax.Array = fractions[jnp.argmin(jax.vmap(bound)(fractions))]
    return best


@standard_promotion
def transfer_to_horizon(
    make_schedule: Callable[[jax.Array], optax.Schedule],
    steps: int,
    base_rate: ArrayLike,
    low: ArrayLike = 0.0,
    high: ArrayLike = 1.0,
) -> jax.Array:
    r"""The schedule of a family whose best rate is the one that is already in use.

    A run tuned for one horizon goes on to a longer one without tuning its rate again:
    of the ways to go on, described by a number x (the share of the cool-down, how far
    the plateau is lowered), it finds the one for which theory has the same best rate,
    :math:`\gamma_*(s_x) = \gamma`, by halving the interval.

    Args:
      make_schedule: from x, a traced scalar, to a schedule whose plateau is 1.
      steps: the new length; static.
      base_rate: :math:`\gamma`, the `best_rate` of the schedule that was tuned.
        Traceable.
      low: the least x. Traceable.
      high: the greatest x; between them the best rate rises or falls. Traceable.

    Returns:
      x, a scalar: `low` or `high` if nothing between them has that rate.

    Example:
      A run of 400 steps, a fifth of it cool-down, is to become twice as long.

      >>> import stabjax
      >>> tuned = stabjax.schedule_bound(stabjax.wsd_schedule(1.0, 0, 320, 80), 400)
      >>> def longer(share):
      ...     return stabjax.wsd_schedule(1.0, 0, 800 * (1 - share), 800 * share)
      >>> share = stabjax.transfer_to_horizon(longer, 800, tuned.best_rate, low=0.1)
      >>> print(round(float(share), 2))
      0.62

    Source: Schaipp et al., 2025 (arXiv 2501.18965).
    """

    def excess(x: jax.Array) -> jax.Array:
        found: jax.Array = schedule_bound(make_schedule(x), steps).best_rate
        return found - jnp.asarray(base_rate)

    def halved(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        left, right = ends
        middle = (left + right) / 2
        before = (excess(middle) > 0) == rising
        return jnp.where(before, left, middle), jnp.where(before, middle, right)

    ends = jnp.asarray(low, float), jnp.asarray(high, float)
    rising = excess(ends[1]) > excess(ends[0])
    left, right = lax.fori_loop(0, _HALVINGS, halved, ends)
    return jnp.where(right == ends[1], right, left)


@builder
def refine_schedule(
    gradient_norms: ArrayLike,
    peak_value: ArrayLike = 1.0,
    power: ArrayLike = 2.0,
    smoothing: float = 0.1,
    steps: ArrayLike | None = None,
) -> optax.Schedule:
    r"""The schedule that theory would have chosen, given the gradients of a run.

    With :math:`\hat G_t` the running median of the norms,

    .. math::
        f(t) = P\, \frac{\eta_t}{\max_s \eta_s}, \qquad
        \eta_t = w_t \sum_{s > t} w_s, \quad w_t = \hat G_t^{-p}

    Large norms at the start make a warm-up, falling ones make the end steeper than a
    line, constant ones make it one: :math:`1 - t / (T - 1)`.

    Args:
      gradient_norms: of the stochastic gradients of a run, one for each step or at even
        distances, positive: l2 norms for SGD, l1 norms for Adam. Length static, values
        traceable.
      peak_value: :math:`P`, the greatest value; still to be tuned. Traceable.
      power: :math:`p`: 2 for SGD, 1 for Adam. Traceable.
      smoothing: width of the running median by the number of norms, from 0 (none) to
        1. Static. Beyond the end the norms are reflected, before the start the first
        one is repeated.
      steps: number of updates to stretch the schedule to; None for one for each norm.
        Traceable.

    Returns:
      A function of the count, of any shape, that returns the value: 0 at the last of
      the steps and after. NaN if an argument was traced and is none of those allowed.

    Raises:
      ValueError: `gradient_norms` are no array of two numbers or more, or one of them,
        concrete, is not positive or not finite; `smoothing` is not between 0 and 1.

    Example:
      >>> import stabjax
      >>> norms = [4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.5, 2.0]
      >>> schedule = stabjax.refine_schedule(norms, smoothing=0)
      >>> [round(float(schedule(count)), 3) for count in range(8)]
      [0.094, 0.163, 0.343, 1.0, 0.629, 0.258, 0.041, 0.0]

    Source: Defazio, Cutkosky, Mehta and Mishchenko, Optimal Linear Decay Learning Rate
    Schedules and Further Refinements, 2023 (arXiv 2310.07831).
    """
    norms = jnp.asarray(gradient_norms)
    norms = norms.astype(jnp.result_type(norms, float))
    if norms.ndim != 1 or norms.size < 2:
        raise ValueError(
            "gradient_norms must be one-dimensional with at least two entries, got "
            f"shape {norms.shape}."
        )
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be between 0 and 1, got {smoothing}.")
    allowed = jnp.asarray(
        check("gradient_norms", norms, _positive_and_finite, "positive and finite")
    )
    good = jnp.all(allowed)
    half = int(smoothing * norms.size) // 2
    heights = _heights(jnp.where(allowed, norms, 1), jnp.asarray(power, float), half)
    heights = nan_unless(good, heights)
    last = norms.size - 1
    stretch = 1 if steps is None else last / jnp.maximum(steps - 1, 1)

    def schedule(count: ArrayLike) -> ArrayLike:
        at = jnp.clip(count * stretch, 0, last)
        return peak_value * jnp.interp(at, jnp.arange(norms.size), heights)

    return schedule


def _positive_and_finite(x: ArrayLike) -> ArrayLike:
    return (x > 0) & (x < jnp.inf)


@functools.partial(jax.jit, static_argnums=2)
def _heights(norms: jax.Array, power: jax.Array, half: int) -> jax.Array:
    smooth = _running_median(norms, half) if half else norms
    # By the smallest: a power of the norms themselves might overflow.
    weights = (jnp.min(smooth) / smooth) ** power.astype(norms.dtype)
    heights = weights * jnp.append(_sums_from(weights)[1:], 0)
    return heights / jnp.max(heights)


def _running_median(values: jax.Array, half: int) -> jax.Array:
    """The median of each value and so many on either side."""
    ahead = jnp.pad(values, (0, half), mode="reflect")
    padded = jnp.pad(ahead, (half, 0), mode="edge")

    def median(start: jax.Array) -> jax.Array:
        return jnp.median(lax.dynamic_slice(padded, (start,), (2 * half + 1,)))

    # In batches: all windows at once are as many numbers as the square of the run.
    medians: jax.Array = lax.map(median, jnp.arange(values.size), batch_size=256)
    return medians
