"""The minimum of a curve that is measured with several seeds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from stabjax._intervals import student_half_width

_Array = np.ndarray[Any, Any]

_DEGREE = 4
UNTESTED = _DEGREE + 1  # values determine the curve, and nothing tests its fit
_ALLOWANCE = 0.25  # share of the difference to the cubic's minimum in the interval
_LARGE = 0.25  # fourth power, relative to the second: those after it matter as well
_REACH = 2  # values on each side of the best, at least
_CLEAR = 2.0  # times the quantile of Student's t: a significant curvature
_LEVEL = 0.05  # of the test whether a curve fits
_UNEQUAL = 4.0  # times the median variance: a value with more noise
_PLACES = 1001  # at which the slope is tested


class Scale(NamedTuple):
    """Values on a logarithmic or a linear axis."""

    to: Callable[[Any], Any]
    back: Callable[[Any], Any]
    least: float  # where the axis ends


def scale_of(values: _Array) -> Scale:
    """Returns the logarithm for positive values, and the values themselves else."""
    if (values > 0).all():
        return Scale(np.log, np.exp, 0.0)
    return Scale(np.asarray, np.asarray, -np.inf)


class Fit(NamedTuple):
    """A polynomial through the values near the best one."""

    at: float  # where the polynomial is smallest
    low: float  # of the interval of that place; -inf if unbounded
    high: float
    loss: _Array  # of each seed, at the minimum
    influence: _Array  # of each seed on `at`, relative to the mean over the seeds
    window: slice  # of the values that are fitted
    places: _Array  # the curve, for a plot
    curve: _Array
    coarse: bool = False  # whether the curve misses means by more than their noise


def fitted(x: _Array, y: _Array, confidence: float) -> Fit | None:
    """Fits a quartic to y(seeds, values) near its smallest mean, or returns None.

    All fits are linear in y: the coefficients of the mean are the means of the seeds'
    coefficients. So the slope of the curve at a place v is a mean over the seeds, and
    the interval contains every v at which this mean does not differ significantly from
    0 by Student's t-test (Fieller's interval, if the curve is a parabola). It is exact
    for normal noise, even if the values share it, whereas a bootstrap of few seeds is
    too short. It is unbounded if the seeds do not determine where the curve turns.

    Next to a steep rise, as near divergence, a cubic is biased: its intervals contained
    the true optimum in 58 to 94% of draws. The quartic follows the rise. To allow for
    higher powers, the interval is extended by a fraction of the effect of the fourth.
    The cubic varies less, so its minimum is the estimate if the interval contains it.

    The window is the smallest around the best value, with at least five values, whose
    curvature is significant. In a symmetric window with equal noise at all values, the
    curvature is independent of slope and position, so this choice hardly biases them. A
    choice by the quality of the fit does (coverage 0.86 to 0.93).

    If a quartic does not fit, it is fitted to the logarithm of the mean, which has its
    minimum at the same position and follows a steep rise next to a valley.
    """
    if y.shape[1] < 3:
        return None
    fit = _in_window(x, y, confidence)
    means = y.mean(axis=0)
    if not fit.coarse or (means <= 0).any():
        return fit
    logs = np.log(means) + (y - means) / means  # each seed's part, to first order
    other = _in_window(x, logs, confidence)
    near = other.window
    if other.coarse or _matters(x[near], logs[:, near], _DEGREE):
        return fit
    level = np.exp(other.loss.mean())
    loss = level * (1 + other.loss - other.loss.mean())
    # Both curves seem to fit, so the interval contains both intervals.
    low, high = min(fit.low, other.low), max(fit.high, other.high)
    return other._replace(low=low, high=high, loss=loss, curve=np.exp(other.curve))


def _in_window(x: _Array, y: _Array, confidence: float) -> Fit:
    seeds, number = y.shape
    best = int(y.mean(axis=0).argmin())
    for reach in range(_REACH, number + 1):
        width = min(2 * reach + 1, number)
        start = int(np.clip(best - reach, 0, number - width))
        window, last = slice(start, start + width), width == number
        if seeds > 1 and not last and not _turns(x[window], y[:, window]):
            continue
        fit = _quartic(x[window], y[:, window], confidence)
        inside = x[window][0] < fit.at < x[window][-1]
        bounded = np.isfinite(fit.high - fit.low) or seeds == 1
        if last or (inside and bounded) or fit.at in (x[0], x[-1]):
            break
    coarse = _misses(x[window], y[:, window])
    coarse |= _overshoots(fit, y, best, confidence)
    coarse |= _moves(fit, x, y, window, confidence)
    return fit._replace(window=window, coarse=coarse)


def widened(fit: Fit, x: _Array, y: _Array) -> Fit:
    """Extends the interval to the neighbors of the best value, if the fit is in doubt.

    Where the losses have a single valley, its minimum is between these neighbors. If no
    curve fits, or the best value is at an edge, that value is the estimate.
    """
    if not fit.coarse and len(x) > UNTESTED:
        return fit
    best = int(y.mean(axis=0).argmin())
    low = x[best - 1] if best else -np.inf
    high = x[best + 1] if best + 1 < len(x) else np.inf
    fit = fit._replace(low=min(fit.low, float(low)), high=max(fit.high, float(high)))
    if not fit.coarse and 0 < best < len(x) - 1:
        return fit
    return fit._replace(
        at=float(x[best]),
        loss=y[:, best],
        places=x[fit.window],
        curve=y.mean(axis=0)[fit.window],
    )


def _moves(fit: Fit, x: _Array, y: _Array, window: slice, confidence: float) -> bool:
    """Whether the values next to the window move the minimum out of the interval.

    They test a quartic that five values determine: the polynomial of the highest degree
    follows the curve more closely.
    """
    wide = slice(max(window.start - 1, 0), window.stop + 1)
    added = len(x[wide]) - len(x[window])
    if len(x[window]) > UNTESTED or not added or len(y) < 2:
        return False
    degree = len(x[wide]) - 1
    other = _polynomial(x[wide], y[:, wide], confidence, degree)
    rounding = np.ptp(x[wide]) / _PLACES
    return not fit.low - rounding <= other.at <= fit.high + rounding


def _overshoots(fit: Fit, y: _Array, best: int, confidence: float) -> bool:
    """Whether the curve dips too low, as it does next to a steep rise."""
    if not 0 < best < y.shape[1] - 1:
        return False
    means = y.mean(axis=0)
    rise = max(means[best - 1], means[best + 1]) - means[best]
    # A parabola through the three values dips by an eighth of the larger rise at most.
    depth = y[:, best] - fit.loss
    if depth.mean() - student_half_width(depth, confidence) > rise / 4:
        return True
    below = fit.loss.mean() + student_half_width(fit.loss, confidence) < 0
    return bool(below and (y > 0).all())


def _misses(x: _Array, y: _Array) -> bool:
    """Whether powers above the degree of the curve are significant.

    With five values, no higher power can be tested. If the fourth power is large
    relative to the second, the next powers are not negligible either.
    """
    if len(x) <= _DEGREE or len(y) < 2:
        return False
    found = _coefficients(x, y, _DEGREE)
    fourth = found[:, _DEGREE] * np.sign(found[:, _DEGREE].mean())
    large = _positive(fourth - _LARGE * found[:, 2])
    return large or _matters(x, y, _DEGREE + 1)


def _matters(x: _Array, y: _Array, power: int) -> bool:
    """Whether a power of the values is significant."""
    if len(x) <= power or len(y) < 2:
        return False
    found = _coefficients(x, y, power)[:, power]
    return _positive(found) or _positive(-found)


def _positive(parts: _Array) -> bool:
    """Whether the mean over the seeds is significantly positive."""
    error = parts.std(ddof=1) / np.sqrt(len(parts))
    return bool(parts.mean() > stdtrit(len(parts) - 1, 1 - _LEVEL / 2) * error)


def _turns(x: _Array, y: _Array) -> bool:
    """Whether the curvature is significant."""
    curvature = _coefficients(x, y, 2)[:, 2]
    error = curvature.std(ddof=1) / np.sqrt(len(y))
    limit = _CLEAR * stdtrit(len(y) - 1, 0.975)
    return bool(curvature.mean() > limit * error)


def _coefficients(x: _Array, y: _Array, degree: int) -> _Array:
    """The coefficients of each seed, with x scaled to [-1, 1]."""
    weights = np.sqrt(_weights(y))
    powers = np.vander(_scaled(x), degree + 1, increasing=True)
    solve = np.linalg.pinv(powers * weights[:, None]) * weights
    found: _Array = y @ solve.T
    return found


def _weights(y: _Array) -> _Array:
    """Returns smaller weights of values with much more noise, as near divergence.

    The variance is computed over the seeds, relative to the level of each seed. Weights
    are equal for variances within a factor of 4: few seeds cannot distinguish them, and
    weights from such estimates would make the intervals too short.
    """
    if len(y) < 2:
        return np.ones(y.shape[1])
    centered = y - y.mean(axis=0)
    variance = (centered - np.median(centered, axis=1, keepdims=True)).var(axis=0)
    usual = _UNEQUAL * np.median(variance)
    return np.where(
        variance > usual, usual / np.where(variance > 0, variance, 1.0), 1.0
    )


def _scaled(x: _Array) -> _Array:
    scaled: _Array = (x - (x[0] + x[-1]) / 2) / (np.ptp(x) / 2)
    return scaled


def _quartic(x: _Array, y: _Array, confidence: float) -> Fit:
    """Fits a quartic, with an allowance in its interval, or the cubic if it agrees."""
    fit = _polynomial(x, y, confidence, _DEGREE)
    if len(x) <= _DEGREE:
        return fit
    cubic = _polynomial(x, y, confidence, _DEGREE - 1)
    moved = _ALLOWANCE * abs(fit.at - cubic.at)
    low, high = fit.low - moved, fit.high + moved
    best = cubic if low < cubic.at < high else fit
    return best._replace(low=low, high=high)


def _polynomial(x: _Array, y: _Array, confidence: float, degree: int) -> Fit:
    """Fits a polynomial of a degree, or less with few values."""
    degree = min(degree, y.shape[1] - 1)
    of_seeds = _coefficients(x, y, degree)
    order = np.arange(degree + 1)
    places = np.linspace(-1.0, 1.0, _PLACES)
    curve = np.vander(places, degree + 1, increasing=True) @ of_seeds.mean(axis=0)
    smallest = int(curve.argmin())
    slopes = of_seeds[:, 1:] @ (order[1:, None] * places ** (order[1:, None] - 1))
    at = places[smallest]
    if 0 < smallest < _PLACES - 1:
        at = _root(places, slopes.mean(axis=0), smallest - 1, smallest + 1)
        # A place of its own: the interval may be shorter than the distance of places.
        places[smallest] = at
        slopes[:, smallest] = of_seeds[:, 1:] @ (order[1:] * at ** (order[1:] - 1))
    low, high = _ends(places, slopes, smallest, confidence)
    half, middle = np.ptp(x) / 2, (x[0] + x[-1]) / 2
    bent = order[2:] * (order[2:] - 1) * at ** (order[2:] - 2)
    slope = of_seeds[:, 1:] @ (order[1:] * at ** (order[1:] - 1)) / half
    curvature = float(of_seeds.mean(axis=0)[2:] @ bent) / half**2
    inside = -1.0 < at < 1.0
    with np.errstate(divide="ignore", invalid="ignore"):  # the curve may be constant
        influence = -(slope - slope.mean()) / curvature
    return Fit(
        at=float(middle + half * at if inside else x[0] if at < 0 else x[-1]),
        low=float(middle + half * low),
        high=float(middle + half * high),
        loss=of_seeds @ at**order,
        influence=influence,
        window=slice(0, len(x)),
        places=middle + half * places,
        curve=curve,
    )


def _ends(
    places: _Array, slopes: _Array, smallest: int, confidence: float
) -> tuple[float, float]:
    """Returns where the slope begins to differ from 0 on both sides of the minimum."""
    seeds = len(slopes)
    if seeds < 2:
        return np.nan, np.nan
    error = slopes.std(axis=0, ddof=1) / np.sqrt(seeds)
    quantile = stdtrit(seeds - 1, 0.5 + confidence / 2)
    excess = np.abs(slopes.mean(axis=0)) - quantile * error
    before = np.flatnonzero(excess[:smallest] > 0)
    after = smallest + 1 + np.flatnonzero(excess[smallest + 1 :] > 0)
    low = _root(places, excess, before[-1], before[-1] + 1) if before.size else -np.inf
    high = _root(places, excess, after[0] - 1, after[0]) if after.size else np.inf
    return low, high


def _root(places: _Array, values: _Array, first: int, last: int) -> float:
    """Returns where values change their sign between two places, by a secant."""
    one, two = values[first], values[last]
    if one * two > 0:  # at the end of the places
        return float(places[last])
    part = one / (one - two) if one != two else 0.5
    return float(places[first] + part * (places[last] - places[first]))
