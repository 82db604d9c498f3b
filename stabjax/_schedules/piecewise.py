"""Schedules given by boundaries and the scales that act there."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stabjax._schedules.arguments import (
    ArrayLike,
    builder,
    check,
    check_positive,
    nan_unless,
    select,
)

# A dict as in Optax, or a pair: the boundaries, and as many scales.
BoundariesAndScales: TypeAlias = (
    Mapping[float, ArrayLike]
    | tuple[Sequence[ArrayLike] | ArrayLike, Sequence[ArrayLike] | ArrayLike]
    | None
)


@builder
def piecewise_constant_schedule(
    init_value: ArrayLike, boundaries_and_scales: BoundariesAndScales = None
) -> optax.Schedule:
    r"""A value that jumps at boundaries.

    .. math:: f(t) = I \prod_{i:\, b_i \le t} s_i

    Args:
      init_value: :math:`I`, the value before the first boundary. Traceable.
      boundaries_and_scales: a dict from boundaries :math:`b_i`, in steps, to scales
        :math:`s_i \ge 0`; or a pair of sequences or arrays, the boundaries and the
        scales, in which a boundary may come twice; or None for no jump. How many is
        static; the scales, and the boundaries of a pair, are traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if a scale
      was traced and is negative.

    Raises:
      ValueError: a concrete scale is negative; a pair is no pair of equal lengths.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.piecewise_constant_schedule(1.0, {10: 0.5, 20: 0.5})
      >>> [float(schedule(count)) for count in (0, 9, 10, 20)]
      [1.0, 1.0, 0.5, 0.25]

    Source: Optax's schedule of this name.
    """
    boundaries, scales, good = _pieces(boundaries_and_scales)
    init_value = nan_unless(good, init_value)

    def schedule(count: ArrayLike) -> ArrayLike:
        value = init_value
        for boundary, scale in zip(boundaries, scales, strict=True):
            value = value * jnp.where(count < boundary, 1.0, scale)
        return value

    return schedule


@builder
def piecewise_interpolate_schedule(
    interpolate_type: str,
    init_value: ArrayLike,
    boundaries_and_scales: BoundariesAndScales = None,
) -> optax.Schedule:
    r"""A value that goes from knot to knot, in straight lines or half waves.

    The knots are :math:`(x_0, V_0) = (0, I)`, :math:`(x_i, V_i) = (b_i, V_{i-1} s_i)`:
    the scales accumulate. For :math:`x_{i-1} \le t < x_i`

    .. math::
        f(t) = V_{i-1} + (V_i - V_{i-1})\,q \quad \text{or} \quad
        V_i + \frac{V_{i-1} - V_i}{2} (1 + \cos \pi q), \qquad
        q = \frac{t - x_{i-1}}{\max(x_i - x_{i-1}, 1)},

    from the last knot on its value, and 0 before step 0.

    Args:
      interpolate_type: `"linear"` or `"cosine"`. Static.
      init_value: :math:`I`, the value at step 0. Traceable.
      boundaries_and_scales: a dict from boundaries :math:`b_i`, in steps, to scales
        :math:`s_i \ge 0`; or a pair of sequences or arrays, the boundaries and the
        scales, in which a boundary may come twice; or None for no knot but the first.
        How many is static; the scales, and the boundaries of a pair, are traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if a scale
      was traced and is negative.

    Raises:
      ValueError: an unknown `interpolate_type`; a concrete scale is negative; a pair is
        no pair of equal lengths.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.piecewise_interpolate_schedule("linear", 1.0, {4: 3, 8: 0})
      >>> [float(schedule(count)) for count in (0, 2, 4, 6, 8, 50)]
      [1.0, 2.0, 3.0, 1.5, 0.0, 0.0]

    Source: Optax's schedule of this name.
    """
    if interpolate_type not in _INTERPOLATIONS:
        raise ValueError(
            f"interpolate_type must be 'linear' or 'cosine', got {interpolate_type!r}."
        )
    interpolate = _INTERPOLATIONS[interpolate_type]
    boundaries, scales, good = _pieces(boundaries_and_scales)
    init_value = nan_unless(good, init_value)

    def schedule(count: ArrayLike) -> ArrayLike:
        # The knots lie along a new first axis, before those of the count.
        knots = (-1,) + (1,) * jnp.ndim(count)
        x = jnp.stack((0, *boundaries)).reshape(knots)
        v = jnp.cumprod(jnp.stack((init_value, *scales))).reshape(knots)
        t = jnp.expand_dims(count, 0)
        q = (t - x[:-1]) / jnp.maximum(x[1:] - x[:-1], 1)
        inside = (x[:-1] <= t) & (t < x[1:])
        value = jnp.sum(jnp.where(inside, interpolate(v[:-1], v[1:], q), 0), axis=0)
        return jnp.where(x[-1] <= count, v[-1], value)

    return schedule


def _linear(start: ArrayLike, end: ArrayLike, q: ArrayLike) -> ArrayLike:
    return (end - start) * q + start


def _cosine(start: ArrayLike, end: ArrayLike, q: ArrayLike) -> ArrayLike:
    return end + (start - end) / 2.0 * (jnp.cos(jnp.pi * q) + 1)


_INTERPOLATIONS = {"linear": _linear, "cosine": _cosine}


@builder
def linear_onecycle_schedule(
    transition_steps: ArrayLike,
    peak_value: ArrayLike,
    pct_start: ArrayLike = 0.3,
    pct_final: ArrayLike = 0.85,
    div_factor: ArrayLike = 25.0,
    final_div_factor: ArrayLike = 1e4,
) -> optax.Schedule:
    r"""Up to a peak, down again and further down, in three straight lines.

    With :math:`a = \lfloor p_s T \rfloor` and :math:`b = \lfloor p_f T \rfloor` the
    value goes

    .. math:: P/d \to P \to P/d \to P/(dF) \quad \text{at} \quad 0, a, b, T

    and stays there. If a = 0 the value starts at the peak. Of two equal boundaries the
    first loses its scale, as in Optax: with `pct_final` 1 the end is :math:`P/F`.

    Args:
      transition_steps: :math:`T` in steps, positive. Traceable.
      peak_value: :math:`P`, the greatest value. Traceable.
      pct_start: :math:`p_s`, a fraction between 0 and 1 (Optax takes any number).
        The product with T is cut to an integer: for Python numbers in float64, for
        arrays in their own precision. Traceable.
      pct_final: :math:`p_f`, likewise. Traceable.
      div_factor: :math:`d`, positive. Traceable.
      final_div_factor: :math:`F`, positive. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if an
      argument was traced and is none of those allowed.

    Raises:
      ValueError: a concrete argument is not positive, or no fraction between 0 and 1.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.linear_onecycle_schedule(100, 1.0, div_factor=10)
      >>> [round(float(schedule(count)), 5) for count in (0, 15, 30, 85, 100)]
      [0.1, 0.55, 1.0, 0.1, 1e-05]

    Source: Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks
    Using Large Learning Rates, 2017 (arXiv 1708.07120).
    """
    good = check_positive(
        transition_steps=transition_steps,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
    )
    good &= _check_fraction("pct_start", pct_start)
    good &= _check_fraction("pct_final", pct_final)
    return piecewise_interpolate_schedule(
        "linear",
        nan_unless(good, peak_value / div_factor),
        _as_in_a_dict(
            (_cut(pct_start * transition_steps), div_factor),
            (_cut(pct_final * transition_steps), 1.0 / div_factor),
            (transition_steps, 1.0 / final_div_factor),
        ),
    )


@builder
def cosine_onecycle_schedule(
    transition_steps: ArrayLike,
    peak_value: ArrayLike,
    pct_start: ArrayLike = 0.3,
    div_factor: ArrayLike = 25.0,
    final_div_factor: ArrayLike = 1e4,
) -> optax.Schedule:
    r"""Up to a peak and down to nearly nothing, in two half waves of the cosine.

    With :math:`a = \lfloor p_s T \rfloor` the value goes

    .. math:: P/d \to P \to P/(dF) \quad \text{at} \quad 0, a, \lfloor T \rfloor

    and stays there. If a = 0 the value starts at the peak; if a = T it never gets
    there, as in Optax: of two equal boundaries the first loses its scale.

    Args:
      transition_steps: :math:`T` in steps, positive. Traceable.
      peak_value: :math:`P`, the greatest value. Traceable.
      pct_start: :math:`p_s`, a fraction between 0 and 1 (Optax takes any number).
        The product with T is cut to an integer: for Python numbers in float64, for
        arrays in their own precision. Traceable.
      div_factor: :math:`d`, positive. Traceable.
      final_div_factor: :math:`F`, positive. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if an
      argument was traced and is none of those allowed.

    Raises:
      ValueError: a concrete argument is not positive, or no fraction between 0 and 1.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.cosine_onecycle_schedule(100, 1.0, div_factor=10)
      >>> [round(float(schedule(count)), 5) for count in (0, 15, 30, 65, 100)]
      [0.1, 0.55, 1.0, 0.5, 1e-05]

    Source: Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks
    Using Large Learning Rates, 2017 (arXiv 1708.07120).
    """
    good = check_positive(
        transition_steps=transition_steps,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
    )
    good &= _check_fraction("pct_start", pct_start)
    return piecewise_interpolate_schedule(
        "cosine",
        nan_unless(good, peak_value / div_factor),
        _as_in_a_dict(
            (_cut(pct_start * transition_steps), div_factor),
            (_cut(transition_steps), 1.0 / (div_factor * final_div_factor)),
        ),
    )


def _pieces(
    given: BoundariesAndScales,
) -> tuple[tuple[ArrayLike, ...], tuple[ArrayLike, ...], ArrayLike]:
    """Boundaries in ascending order, their scales, and whether all are allowed."""
    if given is None:
        return (), (), True
    if isinstance(given, Mapping):
        given = tuple(given.keys()), tuple(given.values())
    try:
        boundaries, scales = (tuple(entries) for entries in given)
    except (TypeError, ValueError):
        raise TypeError(
            "boundaries_and_scales must be a dict, or a pair of sequences, "
            f"got {given!r}."
        ) from None
    if len(boundaries) != len(scales) or any(map(np.ndim, boundaries + scales)):
        raise ValueError(
            "boundaries_and_scales must hold as many boundaries as scales, all of them "
            f"scalars, got {given}."
        )
    good: ArrayLike = True
    for scale in scales:
        good &= check(
            "a scale in boundaries_and_scales",
            scale,
            lambda x: x >= 0,
            "zero or greater",
        )
    return *_ascending(boundaries, scales), good


def _ascending(
    boundaries: tuple[ArrayLike, ...], scales: tuple[ArrayLike, ...]
) -> tuple[tuple[ArrayLike, ...], tuple[ArrayLike, ...]]:
    """Both in the order of the boundaries; equal ones stay as they were."""
    if any(isinstance(boundary, jax.Array) for boundary in boundaries):
        by_boundary = jnp.argsort(jnp.stack(boundaries))
        return (
            tuple(jnp.stack(boundaries)[by_boundary]),
            tuple(jnp.stack(scales)[by_boundary]),
        )
    order = sorted(range(len(boundaries)), key=boundaries.__getitem__)
    return tuple(boundaries[i] for i in order), tuple(scales[i] for i in order)


def _check_fraction(name: str, value: ArrayLike) -> ArrayLike:
    return check(name, value, lambda x: (x >= 0) & (x <= 1), "between 0 and 1")


def _cut(steps: ArrayLike) -> ArrayLike:
    """The integer below; for Python numbers as Python has it, in float64."""
    if isinstance(steps, jax.Array):
        return jnp.floor(steps)
    return int(steps)


def _as_in_a_dict(*pieces: tuple[ArrayLike, ArrayLike]) -> BoundariesAndScales:
    """The pieces as a dict would hold them: the last of equal boundaries replaces."""
    if not any(isinstance(boundary, jax.Array) for boundary, _ in pieces):
        return dict(pieces)
    boundaries, scales = [], []
    for index, (boundary, scale) in enumerate(pieces):
        replaced = False
        for later, _ in pieces[index + 1 :]:
            replaced |= boundary == later
        # A piece at step 0 with scale 1 is as good as none.
        boundaries.append(select(replaced, 0, boundary))
        scales.append(select(replaced, 1, scale))
    return boundaries, scales
