"""Piecewise schedules, defined by boundaries and scales."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._arguments import as_number, check, check_choice, nan_unless, select
from stabjax._schedules.counts import builder, since
from stabjax._schedules.shapes import with_ends
from stabjax._types import Condition, Number, Schedule

# A dict as in Optax, or a pair of boundaries and scales.
BoundariesAndScales: TypeAlias = (
    Mapping[int, Number]
    | Mapping[float, Number]
    | tuple[
        Sequence[Number] | jax.Array | np.ndarray,
        Sequence[Number] | jax.Array | np.ndarray,
    ]
    | None
)


@builder
def piecewise_constant_schedule(
    init_value: Number, boundaries_and_scales: BoundariesAndScales = None
) -> Schedule:
    """Returns a piecewise constant schedule, multiplied by a scale at each boundary.

        f(t) = I prod_i s_i    over all i with b_i <= t

    Args:
      init_value: I, the value before the first boundary. **Traceable.**
      boundaries_and_scales: a dict of boundaries b_i in steps to scales s_i >= 0, a
        pair of sequences or arrays with boundaries and scales, or None for a constant
        schedule. A pair may contain the same boundary twice. Their number is
        **static**. Scales, and boundaries in a pair, are **traceable**.

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced scale is negative.

    Raises:
      ValueError: If a concrete scale is negative, or boundaries and scales have
        different lengths.
      TypeError: If a boundary or scale is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.piecewise_constant_schedule(1.0, {10: 0.5, 20: 0.5})
      >>> [float(schedule(count)) for count in (0, 9, 10, 20)]
      [1.0, 1.0, 0.5, 0.25]
    """
    boundaries, scales, good = pieces(boundaries_and_scales)
    values = _products(nan_unless(good, init_value), scales)

    def schedule(count: Number) -> Number:
        value = values[0]
        for boundary, later_value in zip(boundaries, values[1:], strict=True):
            value = jnp.where(since(count, boundary) < 0, value, later_value)
        return value

    return schedule


@builder
def piecewise_interpolate_schedule(
    interpolate_type: Literal["linear", "cosine"],
    init_value: Number,
    boundaries_and_scales: BoundariesAndScales = None,
) -> Schedule:
    """Returns a piecewise interpolated schedule.

    Interpolates between the knots (x_0, V_0) = (0, I) and (x_i, V_i) = (b_i, V_{i-1}
    s_i). Scales accumulate. For x_{i-1} <= t < x_i and q = (t - x_{i-1}) / max(x_i -
    x_{i-1}, 1),

        f(t) = V_{i-1} + (V_i - V_{i-1}) q                        linear
        f(t) = V_i + (V_{i-1} - V_i) (1 + cos(pi q)) / 2          cosine

    After the last knot, the value is constant. Before step 0, it is 0.

    Args:
      interpolate_type: "linear" or "cosine". **Static.**
      init_value: I, the value at step 0. **Traceable.**
      boundaries_and_scales: a dict of boundaries b_i in steps to scales s_i >= 0, a
        pair of sequences or arrays with boundaries and scales, or None for a constant
        schedule. A pair may contain the same boundary twice. Their number is
        **static**. Scales, and boundaries in a pair, are **traceable**.

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced scale is negative.

    Raises:
      ValueError: If `interpolate_type` is unknown, a concrete scale is negative, or
        boundaries and scales have different lengths.
      TypeError: If a boundary or scale is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.piecewise_interpolate_schedule("linear", 1.0, {4: 3, 8: 0})
      >>> [float(schedule(count)) for count in (0, 2, 4, 6, 8, 50)]
      [1.0, 2.0, 3.0, 1.5, 0.0, 0.0]
    """
    check_choice("interpolate_type", interpolate_type, list(_INTERPOLATIONS))
    boundaries, scales, good = pieces(boundaries_and_scales)
    values = _products(nan_unless(good, init_value), scales)
    return _interpolated(interpolate_type, (0, *boundaries), values)


def _interpolated(
    interpolate_type: str, knots: Sequence[Number], values: Sequence[Number]
) -> Schedule:
    """Interpolates between (knot, value) pairs, beginning at step 0."""
    interpolate = _INTERPOLATIONS[interpolate_type]

    def schedule(count: Number) -> Number:
        # Arrays yield the same bits for Python numbers and traced values.
        heights = [jnp.asarray(v, jnp.result_type(v, float)) for v in values]
        value: Number = jnp.where(since(count, 0) < 0, 0.0, heights[0])
        segments = zip(
            itertools.pairwise(knots), itertools.pairwise(heights), strict=True
        )
        for (x, next_x), (v, next_v) in segments:
            elapsed = since(count, x)
            q = elapsed / _at_least_one(next_x - x)
            inside = interpolate(v, next_v, q)
            ended = since(count, next_x) >= 0
            segment = with_ends(inside, v, elapsed <= 0, next_v, ended)
            value = jnp.where(elapsed < 0, value, segment)
        return value

    return schedule


def _at_least_one(steps: Number) -> Number:
    # Uses Python numbers if possible because steps may exceed int32.
    return max(steps, 1) if isinstance(steps, int | float) else jnp.maximum(steps, 1)


def _linear(start: Number, end: Number, q: Number) -> Number:
    return (end - start) * q + start


def _cosine(start: Number, end: Number, q: Number) -> Number:
    return end + (start - end) / 2.0 * (jnp.cos(jnp.pi * q) + 1)


_INTERPOLATIONS: dict[str, Callable[[Number, Number, Number], Number]] = {
    "linear": _linear,
    "cosine": _cosine,
}


@builder
def linear_onecycle_schedule(
    transition_steps: Number,
    peak_value: Number,
    pct_start: Number = 0.3,
    pct_final: Number = 0.85,
    div_factor: Number = 25.0,
    final_div_factor: Number = 1e4,
) -> Schedule:
    """Returns a linear 1cycle schedule: warmup, cooldown and final decay.

    Let a = floor(p_s T) and b = floor(p_f T). The value changes linearly between

        P / d  ->  P  ->  P / d  ->  P / (d F)    at steps 0, a, b, T

    and is constant afterwards. If a = 0, the schedule starts at the peak. If two
    boundaries are equal, only the scale of the second applies, as in Optax. For
    example, with `pct_final=1` the final value is P / F.

    Args:
      transition_steps: T in steps, > 0. **Traceable.**
      peak_value: P, the maximum value. **Traceable.**
      pct_start: p_s, in [0, 1]. The product p_s T is rounded down, in float64 for
        Python numbers and in the dtype of an array otherwise. **Traceable.**
      pct_final: p_f, in [0, 1], rounded in the same way. **Traceable.**
      div_factor: d, > 0. **Traceable.**
      final_div_factor: F, > 0. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced argument is out of range.

    Raises:
      ValueError: If a concrete argument is out of range.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.linear_onecycle_schedule(100, 1.0, div_factor=10)
      >>> [round(float(schedule(count)), 5) for count in (0, 15, 30, 85, 100)]
      [0.1, 0.55, 1.0, 0.1, 1e-05]

    References:
      Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using
      Large Learning Rates, 2017. https://arxiv.org/abs/1708.07120
    """
    good = _check_onecycle(transition_steps, pct_start, div_factor, final_div_factor)
    good &= check("pct_final", pct_final, "in [0, 1]")
    knots = [
        (_floor(pct_start * transition_steps), div_factor),
        (_floor(pct_final * transition_steps), 1.0 / div_factor),
        (transition_steps, 1.0 / final_div_factor),
    ]
    return _onecycle("linear", nan_unless(good, peak_value), div_factor, knots)


@builder
def cosine_onecycle_schedule(
    transition_steps: Number,
    peak_value: Number,
    pct_start: Number = 0.3,
    div_factor: Number = 25.0,
    final_div_factor: Number = 1e4,
) -> Schedule:
    """Returns a cosine 1cycle schedule: warmup and decay along half cosines.

    Let a = floor(p_s T). The value follows half cosines between

        P / d  ->  P  ->  P / (d F)    at steps 0, a, floor(T)

    and is constant afterwards. If a = 0, the schedule starts at the peak. If a = T, it
    never reaches the peak: if two boundaries are equal, only the scale of the second
    applies, as in Optax.

    Args:
      transition_steps: T in steps, > 0. **Traceable.**
      peak_value: P, the maximum value. **Traceable.**
      pct_start: p_s, in [0, 1]. The product p_s T is rounded down, in float64 for
        Python numbers and in the dtype of an array otherwise. **Traceable.**
      div_factor: d, > 0. **Traceable.**
      final_div_factor: F, > 0. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced argument is out of range.

    Raises:
      ValueError: If a concrete argument is out of range.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.cosine_onecycle_schedule(100, 1.0, div_factor=10)
      >>> [round(float(schedule(count)), 5) for count in (0, 15, 30, 65, 100)]
      [0.1, 0.55, 1.0, 0.5, 1e-05]

    References:
      Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using
      Large Learning Rates, 2017. https://arxiv.org/abs/1708.07120
    """
    good = _check_onecycle(transition_steps, pct_start, div_factor, final_div_factor)
    knots = [
        (_floor(pct_start * transition_steps), div_factor),
        (_floor(transition_steps), 1.0 / (div_factor * final_div_factor)),
    ]
    return _onecycle("cosine", nan_unless(good, peak_value), div_factor, knots)


def _onecycle(
    interpolate_type: str,
    peak_value: Number,
    div_factor: Number,
    knots: list[tuple[Number, Number]],
) -> Schedule:
    """Returns the schedule from `peak_value / div_factor` through (boundary, scale)."""
    boundaries, scales = _ascending(*zip(*_last_of_equal(knots), strict=True))
    # Heights are relative to the peak, which makes the peak value exact.
    heights = _products(1.0 / div_factor, scales)
    values = [peak_value * height for height in heights]
    return _interpolated(interpolate_type, (0, *boundaries), values)


def _last_of_equal(
    knots: list[tuple[Number, Number]],
) -> list[tuple[Number, Number]]:
    """Keeps the last of equal boundaries, like a dict."""
    kept = []
    for index, (boundary, scale) in enumerate(knots):
        replaced: Condition = False
        for later_boundary, _ in knots[index + 1 :]:
            replaced |= boundary == later_boundary
        # A scale of 1 at step 0 has no effect.
        kept.append((select(replaced, 0, boundary), select(replaced, 1, scale)))
    return kept


def _check_onecycle(
    transition_steps: Number,
    pct_start: Number,
    div_factor: Number,
    final_div_factor: Number,
) -> Condition:
    good = check("transition_steps", transition_steps, "> 0")
    good &= check("div_factor", div_factor, "> 0")
    good &= check("final_div_factor", final_div_factor, "> 0")
    return good & check("pct_start", pct_start, "in [0, 1]")


def pieces(
    given: BoundariesAndScales,
) -> tuple[Sequence[Number], Sequence[Number], Condition]:
    """Returns sorted boundaries, their scales, and whether all scales are valid."""
    if given is None:
        return (), (), True
    if isinstance(given, Mapping):
        given = tuple(given.keys()), tuple(given.values())
    try:
        boundaries, scales = (tuple(numbers) for numbers in given)
    except (TypeError, ValueError):
        raise TypeError(
            "boundaries_and_scales must be a dict or a pair of sequences, "
            f"got {given!r}."
        ) from None
    if len(boundaries) != len(scales) or any(map(np.ndim, boundaries + scales)):
        raise ValueError(
            "boundaries_and_scales must contain the same number of boundaries and "
            f"scales, as scalars, got {given!r}."
        )
    boundaries = tuple(
        as_number("each boundary in boundaries_and_scales", b) for b in boundaries
    )
    name = "each scale in boundaries_and_scales"
    scales = tuple(1.0 * as_number(name, s) for s in scales)
    good: Condition = True
    for scale in scales:
        good &= check(name, scale, ">= 0")
    return *_ascending(boundaries, scales), good


def _ascending(
    boundaries: Sequence[Number], scales: Sequence[Number]
) -> tuple[Sequence[Number], Sequence[Number]]:
    """Sorts both by boundary with a stable sort."""
    if any(isinstance(boundary, jax.Array) for boundary in boundaries):
        by_boundary = jnp.argsort(jnp.stack(boundaries))
        return (
            tuple(jnp.stack(boundaries)[by_boundary]),
            tuple(jnp.stack(scales)[by_boundary]),
        )
    order = sorted(range(len(boundaries)), key=boundaries.__getitem__)
    return tuple(boundaries[i] for i in order), tuple(scales[i] for i in order)


def _products(init_value: Number, scales: Sequence[Number]) -> list[Number]:
    """Returns the value after each boundary, in float64 for Python numbers."""
    return [*itertools.accumulate((init_value, *scales), lambda a, b: a * b)]


def _floor(steps: Number) -> Number:
    floor = jnp.floor(steps) if isinstance(steps, jax.Array) else int(steps)
    return as_number("transition_steps", floor)
