"""The best value of a hyperparameter and its uncertainty."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import xarray as xr

from stabjax._arguments import check
from stabjax._intervals import Estimate, student, within_noise
from stabjax.runs.answers import Answer, basis, counted, with_caveats
from stabjax.runs.curves import UNTESTED, Fit, Scale, fitted, scale_of, widened
from stabjax.runs.tables import Table, seeds_left_out, table_of

_Array = np.ndarray[Any, Any]


@dataclass(frozen=True, repr=False)
class Optimum(Answer):
    """The best value of a hyperparameter, as returned by `optimum`.

    Attributes:
      axis: the name of the hyperparameter.
      variable: the optimized variable.
      value: the best value with its confidence interval. If the runs do not bound it,
        the lower end is 0 or the upper end is infinite.
      mean: the mean of the variable at the best value, with its confidence interval.
      within_noise: smallest and largest value of the grid that do not differ
        significantly from the best one, paired by seed.
      edge: `"low"` or `"high"` if the best value is at an edge of the grid, so better
        values may be outside it, and None otherwise.
      flat: whether the interval is unbounded although the best value is not at an edge.
      at: the values of the other axes at the best point.
      seeds: number of seeds.
      confidence: confidence level of the intervals.
      values: the values of the axis at which no run diverged.
      means: the mean of the variable at these values.
      errors: the standard errors of these means, or NaN for a single seed.
      curve: values and means along the fitted curve.
      caveats: sentences about the limits of the answer.
    """

    axis: str
    variable: str
    value: Estimate
    mean: Estimate
    within_noise: tuple[float, float]
    edge: Literal["low", "high"] | None
    flat: bool
    at: Mapping[str, object]
    seeds: int
    confidence: float
    values: tuple[float, ...]
    means: tuple[float, ...]
    errors: tuple[float, ...]
    curve: tuple[tuple[float, ...], tuple[float, ...]]
    caveats: tuple[str, ...]

    def __str__(self) -> str:
        """Returns the answer in a few lines of text."""
        low, high = self.within_noise
        confidence = None if np.isnan(self.value.low) else self.confidence
        span = f"{low:.3g} to {high:.3g}" if low < high else "no other of the grid"
        return with_caveats(
            [
                f"best {self.axis}: {self.value} "
                f"{basis(self.seeds, confidence, self.at)}",
                f"mean {self.variable} there: {self.mean}; {span} "
                "is within noise of the best",
            ],
            self.caveats,
        )


def optimum(
    runs: xr.Dataset,
    axis: str,
    *,
    variable: str = "final_loss",
    maximize: bool | None = None,
    confidence: float = 0.95,
) -> Optimum:
    """Estimates the best value of a hyperparameter with a confidence interval.

    Fits a quartic polynomial to the means over the seeds near the best value, as a
    function of the logarithm of the hyperparameter if all its values are positive. A
    parabola would be biased, because the loss increases faster above the best learning
    rate than below. The interval contains every value at which the slope does not
    differ significantly from 0 (Student's t-test over the seeds). If no polynomial
    fits, the estimate is the best value of the grid, and the interval extends to its
    neighbors. It also does so for three to five values, which determine the polynomial
    and cannot test it. `benchmarks/answers.py` measures the coverage of the intervals.

    Values at which a run diverged are excluded. All other axes are fixed at their
    values at the best point. To use other values, select them with `runs.sel(...)`.

    Args:
      runs: the dataset of `sweep` or `successive_halving`, or a part of it.
      axis: a hyperparameter with at least three numeric values.
      variable: a variable with one value per run.
      maximize: whether larger values are better. None uses the problem's metadata, and
        minimizes by default.
      confidence: confidence level of the intervals, in (0, 1).

    Returns:
      An `Optimum`. Check `edge`, `flat` and `caveats` for its limits.

    Raises:
      ValueError: If the dataset lacks the axis or the variable, the axis is not a
        numeric dimension of a grid, or every point has a diverged run.

    Example:
      >>> import numpy as np, optax, stabjax
      >>> problem = stabjax.problems.quadratic(noise=1.0)
      >>> space = stabjax.grid(rate=np.logspace(-2, 0, 9), seed=range(8))
      >>> def make_optimizer(rate):
      ...     return optax.sgd(rate)
      >>> runs = stabjax.sweep(problem, make_optimizer, space, steps=20)
      >>> best = stabjax.runs.optimum(runs, "rate")
      >>> print(best.edge, best.flat, round(best.value.value, 2))
      None False 0.1
    """
    check("confidence", confidence, "in (0, 1)")
    table = table_of(runs, axis, variable, maximize)
    usable = np.isfinite(table.values) & np.isfinite(table.scores).all(axis=0)
    values, scores = table.values[usable], table.scores[:, usable]
    scale = scale_of(values)
    x = scale.to(values)
    fit = fitted(x, scores, confidence) or _smallest(values, scores)
    fit = widened(fit, x, scores)
    edge, value = _bounds(fit, scale, table, usable)
    places, curve = scale.back(fit.places), table.sign * fit.curve
    answer = Optimum(
        axis=axis,
        variable=variable,
        value=value,
        mean=student(table.sign * fit.loss, confidence),
        within_noise=_range_within_noise(values, scores, confidence),
        edge=edge,
        flat=edge is None and (value.low <= scale.least or value.high == np.inf),
        at=table.at,
        seeds=len(scores),
        confidence=confidence,
        values=tuple(values.tolist()),
        means=tuple((table.sign * scores.mean(axis=0)).tolist()),
        errors=tuple(_errors(scores).tolist()),
        curve=(tuple(places.tolist()), tuple(curve.tolist())),
        caveats=(),
    )
    return replace(answer, caveats=tuple(_caveats(answer, table, usable, fit.coarse)))


def _bounds(
    fit: Fit, scale: Scale, table: Table, usable: _Array
) -> tuple[Literal["low", "high"] | None, Estimate]:
    """Returns the edge of the grid that is best, and the best value."""
    finite = table.values[np.isfinite(table.values)]
    inside = table.values[usable]
    below, above = finite[finite < inside[0]], finite[finite > inside[-1]]
    at, low, high = (float(scale.back(x)) for x in (fit.at, fit.low, fit.high))
    for end in inside[[0, -1]]:
        if fit.at == scale.to(end):  # rounding aside
            at = float(end)
    # A mean with a diverged run is infinite, which bounds the best value.
    if low <= scale.least and below.size:
        low = float(below[-1])
    if high == np.inf and above.size:
        high = float(above[0])
    if low <= scale.least and high == np.inf:  # not even a side is known
        return None, Estimate(at, low, high)
    if at >= inside[-1] and not above.size:
        return "high", Estimate(at, low, high)
    if at <= inside[0] and not below.size:
        return "low", Estimate(at, low, high)
    return None, Estimate(at, low, high)


def _smallest(values: _Array, scores: _Array) -> Fit:
    """Returns the value with the smallest mean, where there are too few for a curve."""
    x = scale_of(values).to(values)
    best = int(scores.mean(axis=0).argmin())
    loss = scores[:, best]
    whole = slice(0, len(x))
    unknown = np.full(len(scores), np.nan)
    return Fit(x[best], np.nan, np.nan, loss, unknown, whole, x, scores.mean(axis=0))


def _range_within_noise(
    values: _Array, scores: _Array, confidence: float
) -> tuple[float, float]:
    """Returns the smallest and largest value within noise of the best of the grid."""
    best = int(scores.mean(axis=0).argmin())
    near = within_noise(scores.T, scores[:, best], confidence)
    near[best] = True  # also with a single seed
    first, last = np.flatnonzero(near)[[0, -1]]
    return float(values[first]), float(values[last])


def _errors(scores: _Array) -> _Array:
    if len(scores) < 2:
        return np.full(scores.shape[1], np.nan)
    errors: _Array = scores.std(axis=0, ddof=1) / np.sqrt(len(scores))
    return errors


def _caveats(
    found: Optimum, table: Table, usable: _Array, coarse: bool
) -> Iterator[str]:
    """Yields sentences about the limits of an answer, the most severe first."""
    axis, values, best = found.axis, found.values, found.value.value
    beyond = table.values[np.isfinite(table.values) & (table.values > values[-1])]
    if found.edge:
        where = "largest" if found.edge == "high" else "smallest"
        yield (
            f"{best:.3g} is the {where} value of the grid: better values may be "
            "outside it. Extend the grid, for example with stabjax.runs.refine."
        )
    elif best >= values[-1] and beyond.size:
        yield (
            f"{axis}={best:.3g} is the largest value without a diverged run; "
            f"at {beyond[0]:.3g} a seed diverges."
        )
    if len(values) < 3:
        yield "a fit needs three values of the axis without a diverged run."
    elif found.seeds == 1:
        yield "one seed: there is no interval. Add an axis seed=range(8)."
    elif found.flat:
        yield (
            f"flat minimum: {counted(found.seeds, 'seed')} do not determine the best "
            f"{axis}."
        )
    if not np.isfinite(table.values[-1]):
        last = table.sign * table.scores[:, -1].mean()
        yield f"{axis}=inf is not part of the fit; its mean is {last:.4g}."
    lost = int((~usable & np.isfinite(table.values)).sum())
    if lost:
        yield (
            f"{lost} of {counted(len(table.values), 'value')} excluded because a seed "
            "diverges."
        )
    yield from _doubts(found, coarse)
    yield from seeds_left_out(table.dropped)


def _doubts(found: Optimum, coarse: bool) -> Iterator[str]:
    """Yields why the curve does not determine the interval."""
    number = len(found.values)
    if coarse:
        yield (
            f"the values of {found.axis} are too far apart to fit a curve: this is the "
            "best value of the grid. Sweep a denser one, for example with "
            "stabjax.runs.refine."
        )
    elif found.seeds > 1 and 3 <= number <= UNTESTED:
        yield (
            f"{number} values of {found.axis} cannot test the fitted curve: the "
            "interval extends to the neighbors of the best value. Sweep at least "
            f"{UNTESTED + 1}."
        )
