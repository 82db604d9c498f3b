"""Convergence theory for schedules: bounds, transfer and refinement."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from stabjax._arguments import as_integer, check
from stabjax._schedules.counts import builder, standard_promotion
from stabjax._schedules.decays import constant_schedule
from stabjax._schedules.shapes import Shape
from stabjax._schedules.wrappers import with_cooldown
from stabjax._types import Condition, Number, Schedule

_HALVINGS = 40  # bisection steps; more than the resolution of float32


class ScheduleBound(NamedTuple):
    """Result of `schedule_bound`.

    Attributes:
      value: bound for the given schedule.
      best_rate: factor of the schedule that minimizes the bound.
      best_value: bound for the schedule multiplied by `best_rate`.
    """

    value: jax.Array
    best_rate: jax.Array
    best_value: jax.Array


@standard_promotion
def schedule_bound(
    schedule: Schedule,
    steps: int,
    *,
    distance: Number = 1.0,
    gradient_norms: Number = 1.0,
) -> ScheduleBound:
    """Computes the worst-case suboptimality after training with a schedule.

    Consider (stochastic) subgradient steps x_{t+1} = x_t - eta_t g_t on a convex
    function f, with |x_1 - x*| <= D and E |g_t|^2 <= G_t^2. The last iterate satisfies
    E f(x_T) - f* <= Omega, where

        Omega = D^2 / (2 S_1) + Q_1 / (2 S_1)
                + 1/2 sum_{k=1}^{T-1} (eta_k / S_{k+1}) (Q_k / S_k)
        S_k = sum_{t=k}^T eta_t,    Q_k = sum_{t=k}^T eta_t^2 G_t^2

    and eta_t = s(t - 1) for a schedule s. The bound for the scaled schedule gamma s is
    Omega_1 / gamma + gamma Omega_2, where Omega_1 is the first term of Omega. It is
    minimized by gamma* = sqrt(Omega_1 / Omega_2). Use `best_value`, the bound at this
    factor, to compare schedules.

    Args:
      schedule: s, any function of the count. Its parameters may be traced.
      steps: T, the number of updates, >= 1. **Static.**
      distance: D, the initial distance to a minimum, > 0. **Traceable.**
      gradient_norms: G_t, a single number or one per step, >= 0. **Traceable.**

    Returns:
      A `ScheduleBound` of scalars: `value` is Omega, `best_rate` is gamma* and
      `best_value` is 2 sqrt(Omega_1 Omega_2). Sums are computed in float32 and are
      accurate to about five digits for thousands of steps. All values are NaN if a
      traced argument is out of range.

    Raises:
      ValueError: If `steps` is not >= 1, a concrete `distance` is not > 0, or
        `gradient_norms` are not >= 0.

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

    References:
      Schaipp, Haegele, Taylor, Simsekli and Bach, The Surprising Agreement Between
      Convex Optimization Theory and Learning-Rate Scheduling for Large Model Training,
      2025. https://arxiv.org/abs/2501.18965
    """
    steps = as_integer("steps", steps)
    good = check("distance", distance, "> 0")
    good &= check("gradient_norms", gradient_norms, ">= 0")
    good = jnp.all(jnp.asarray(good))
    rates = jax.vmap(lambda count: jnp.asarray(schedule(count)))(jnp.arange(steps))
    dtype = jnp.result_type(rates, float)
    far, norms = (jnp.asarray(x, dtype) for x in (distance, gradient_norms))
    first, second = _terms(rates.astype(dtype), far, norms)
    bound = first + second, jnp.sqrt(first / second), 2 * jnp.sqrt(first * second)
    return ScheduleBound(*(jnp.where(good, value, jnp.nan) for value in bound))


@jax.jit
def _terms(
    rates: jax.Array, distance: jax.Array, norms: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the terms that decrease and increase with the rate."""
    sums = _sums_from(rates)
    spent = _sums_from(jnp.square(rates * norms)) / jnp.where(sums > 0, sums, 1)
    # No steps with a positive rate follow, so the remaining sum is empty.
    moves = sums[1:] > 0
    later = jnp.where(moves, rates[:-1] / jnp.where(moves, sums[1:], 1), 0)
    first = jnp.square(distance) / 2 / sums[0]
    return first, spent[0] / 2 + jnp.sum(later * spent[:-1]) / 2


def _sums_from(values: jax.Array) -> jax.Array:
    """Computes the sum from each element to the last."""
    return lax.cumsum(values, reverse=True)


def best_cooldown_fraction(
    steps: int, base_rate: Number, *, shape: Shape = "linear", candidates: int = 100
) -> jax.Array:
    """Returns the optimal cooldown fraction of a run with a constant learning rate.

    Minimizes `schedule_bound` (with D = G = 1) at a given rate. If the rate were tuned
    for each fraction, a linear decay over the entire run would be optimal. With other
    rates, the optimal fraction is smaller.

    Args:
      steps: length of the run. **Static.**
      base_rate: rate before the cooldown in units of D / G, such as the `best_rate` of
        `schedule_bound` or a multiple of it. **Traceable.**
      shape: shape of the cooldown. See `with_cooldown`. **Static.**
      candidates: number of evenly spaced fractions to try, from 1 / candidates to 1.
        **Static.**

    Returns:
      The best candidate, a scalar.

    Raises:
      ValueError: If `steps` is not >= 1, or `shape` is unknown or "exponential".

    Example:
      >>> import stabjax
      >>> rates = [0.02, 0.04, 0.05]
      >>> best = [stabjax.best_cooldown_fraction(400, rate) for rate in rates]
      >>> [round(float(fraction), 2) for fraction in best]
      [0.29, 0.79, 1.0]

    References:
      Schaipp et al., The Surprising Agreement Between Convex Optimization Theory and
      Learning-Rate Scheduling for Large Model Training, 2025.
      https://arxiv.org/abs/2501.18965
    """

    def bound(fraction: jax.Array) -> jax.Array:
        plateau = constant_schedule(base_rate)
        start, length = (1 - fraction) * steps, fraction * steps
        schedule = with_cooldown(plateau, start, length, shape=shape)
        return schedule_bound(schedule, steps).value

    fractions = jnp.arange(1, candidates + 1) / candidates
    best: jax.Array = fractions[jnp.argmin(jax.vmap(bound)(fractions))]
    return best


@standard_promotion
def transfer_to_horizon(
    make_schedule: Callable[[jax.Array], Schedule],
    steps: int,
    base_rate: Number,
    *,
    low: Number = 0.0,
    high: Number = 1.0,
) -> jax.Array:
    """Returns the schedule parameter that preserves the best rate at a new length.

    Use this function to extend a tuned run to a longer horizon without tuning the
    learning rate again. Let s_x be a family of extended schedules with a parameter x,
    such as the cooldown fraction or the height of a lower plateau. The function uses
    bisection to find x such that the theoretical best rate is unchanged: gamma*(s_x) =
    gamma.

    Args:
      make_schedule: function that maps x, a traced scalar, to a schedule whose plateau
        is 1.
      steps: the new length. **Static.**
      base_rate: gamma, the `best_rate` of the tuned schedule. **Traceable.**
      low: lower bound on x. **Traceable.**
      high: upper bound on x. The best rate must be monotonic between both bounds.
        **Traceable.**

    Returns:
      x, a scalar. It is `low` or `high` if no x between them has the given rate.

    Raises:
      ValueError: If `steps` is not >= 1.

    Example:
      A run of 400 steps, a fifth of it cooldown, is extended to twice the length.

      >>> import stabjax
      >>> tuned = stabjax.schedule_bound(stabjax.wsd_schedule(1.0, 0, 320, 80), 400)
      >>> def longer(share):
      ...     return stabjax.wsd_schedule(1.0, 0, 800 * (1 - share), 800 * share)
      >>> share = stabjax.transfer_to_horizon(longer, 800, tuned.best_rate, low=0.1)
      >>> print(round(float(share), 2))
      0.62

    References:
      Schaipp et al., The Surprising Agreement Between Convex Optimization Theory and
      Learning-Rate Scheduling for Large Model Training, 2025.
      https://arxiv.org/abs/2501.18965
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
    gradient_norms: Number,
    peak_value: Number = 1.0,
    power: Number = 2.0,
    *,
    smoothing: float = 0.1,
    steps: Number | None = None,
) -> Schedule:
    """Derives an optimized schedule from the gradient norms of a previous run.

    Let G_t be the running median of the norms:

        f(t) = P eta_t / max_s eta_s,    eta_t = w_t sum_{s > t} w_s,    w_t = G_t^(-p)

    Large initial norms result in a warmup, decreasing norms in a final decay that is
    steeper than linear, and constant norms in a linear decay, 1 - t / (T - 1).

    Args:
      gradient_norms: stochastic gradient norms of a run, > 0, either one per step or
        evenly spaced. Use 2-norms for SGD and 1-norms for Adam. Their number is
        **static** and their values are **traceable**.
      peak_value: P, the maximum value, which still needs tuning. **Traceable.**
      power: p, 2 for SGD and 1 for Adam. **Traceable.**
      smoothing: width of the running median as a fraction of the number of norms, in
        [0, 1]. Use 0 to disable smoothing. Norms are reflected at the end, and the
        first norm is repeated at the beginning. **Static.**
      steps: number of updates of the new schedule. Defaults to the number of norms.
        **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value. It is 0
      from the last step onwards, and NaN if a traced argument is out of range.

    Raises:
      ValueError: If `gradient_norms` is not an array with at least two elements, a
        concrete norm is not positive and finite, or `smoothing` is not in [0, 1].
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> norms = [4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.5, 2.0]
      >>> schedule = stabjax.refine_schedule(norms, smoothing=0)
      >>> [round(float(schedule(count)), 3) for count in range(8)]
      [0.094, 0.163, 0.343, 1.0, 0.629, 0.258, 0.041, 0.0]

    References:
      Defazio, Cutkosky, Mehta and Mishchenko, Optimal Linear Decay Learning Rate
      Schedules and Further Refinements, 2023. https://arxiv.org/abs/2310.07831
    """
    norms = jnp.asarray(gradient_norms)
    norms = norms.astype(jnp.result_type(norms, float))
    if norms.ndim != 1 or norms.size < 2:
        raise ValueError(
            "gradient_norms must be one-dimensional with at least two elements, got "
            f"shape {norms.shape}."
        )
    check("smoothing", smoothing, "in [0, 1]")
    finite: Condition = jnp.asarray(check("gradient_norms", norms, "in (0, inf)"))
    good = jnp.all(jnp.asarray(finite))
    half = int(smoothing * norms.size) // 2
    heights = _heights(jnp.where(finite, norms, 1), jnp.asarray(power, float), half)
    heights = jnp.where(good, heights, jnp.nan)
    last = norms.size - 1
    stretch = 1 if steps is None else last / jnp.maximum(steps - 1, 1)

    def schedule(count: Number) -> Number:
        at = jnp.clip(count * stretch, 0, last)
        return peak_value * jnp.interp(at, jnp.arange(norms.size), heights)

    return schedule


@functools.partial(jax.jit, static_argnums=2)
def _heights(norms: jax.Array, power: jax.Array, half: int) -> jax.Array:
    smooth = _running_median(norms, half) if half else norms
    # Powers of the norms could overflow, so they are relative to the minimum.
    weights = (jnp.min(smooth) / smooth) ** power.astype(norms.dtype)
    heights = weights * jnp.append(_sums_from(weights)[1:], 0)
    return heights / jnp.max(heights)


def _running_median(values: jax.Array, half: int) -> jax.Array:
    """Computes the median of each value and `half` neighbors on each side."""
    ahead = jnp.pad(values, (0, half), mode="reflect")
    padded = jnp.pad(ahead, (half, 0), mode="edge")

    def median(start: jax.Array) -> jax.Array:
        return jnp.median(lax.dynamic_slice(padded, (start,), (2 * half + 1,)))

    # Computing all windows at once requires memory quadratic in the run length.
    medians: jax.Array = lax.map(median, jnp.arange(values.size), batch_size=256)
    return medians
