"""Power laws for the best value of a hyperparameter."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from stabjax._arguments import check
from stabjax._intervals import Estimate
from stabjax.runs.answers import Answer, counted, percent, shown, with_caveats
from stabjax.runs.curves import fitted
from stabjax.runs.tables import seeds_left_out, table_of

_Array = np.ndarray[Any, Any]


@dataclass(frozen=True, repr=False)
class Scaling(Answer):
    """A power law for the best value of a hyperparameter, as returned by `scaling`.

    Attributes:
      axis: the name of the hyperparameter.
      factor: the optimum if all sizes are 1.
      exponents: the exponent of each size, by name, with its confidence interval.
      covariance: covariance of the logarithm of the factor and the exponents.
      held_out_error: typical factor between each optimum and its prediction from the
        other optima (root mean square of the logarithm), or NaN if there are too few.
      sizes: the sizes of each fitted optimum.
      optima: the fitted optima with their confidence intervals.
      seeds: number of seeds.
      confidence: confidence level of the intervals.
      caveats: sentences about the limits of the answer.
    """

    axis: str
    factor: float
    exponents: Mapping[str, Estimate]
    covariance: tuple[tuple[float, ...], ...]
    held_out_error: float
    sizes: tuple[Mapping[str, float], ...]
    optima: tuple[Estimate, ...]
    seeds: int
    confidence: float
    caveats: tuple[str, ...]

    def __str__(self) -> str:
        """Returns the answer in a few lines of text."""
        powers = " ".join(f"{n}^{e.value:.3g}" for n, e in self.exponents.items())
        on = f"{len(self.optima)} optima, {counted(self.seeds, 'seed')}"
        lines = [f"best {self.axis} = {self.factor:.3g} {powers} ({on})"]
        if self.seeds > 1:
            share = percent(self.confidence)
            lines += [
                f"exponent of {name}: {exponent} ({share} interval)"
                for name, exponent in self.exponents.items()
            ]
        if np.isfinite(self.held_out_error):
            lines.append(
                "each optimum predicted from the others: off by a factor of "
                f"{self.held_out_error:.3g}"
            )
        return with_caveats(lines, self.caveats)

    def predict(self, **sizes: float) -> Estimate:
        """Returns the optimum that the law predicts, with its confidence interval.

        The interval reflects the noise of the seeds, not whether the law holds at these
        sizes: `held_out_error` measures that.

        Args:
          **sizes: a value for each size, such as `width=1024`.

        Raises:
          ValueError: If a size is missing, unknown or not positive.
        """
        known = [*self.exponents]
        if sorted(sizes) != sorted(known):
            raise ValueError(
                f"sizes must be {', '.join(known)}, got {', '.join(sizes) or None}."
            )
        for name, value in sizes.items():
            check(name, value, "> 0")
        row = np.array([1.0, *(np.log(sizes[name]) for name in known)])
        powers = [np.log(self.factor), *(e.value for e in self.exponents.values())]
        at = float(row @ powers)
        error = np.sqrt(row @ np.array(self.covariance) @ row)
        half = stdtrit(max(self.seeds - 1, 1), 0.5 + self.confidence / 2) * error
        return Estimate(*np.exp([at, at - half, at + half]).tolist())


class _Optima(NamedTuple):
    """The optima of the groups that can be fitted."""

    logs: _Array  # of the sizes, (groups, sizes)
    at: _Array  # logarithms of the optima
    influence: _Array  # of each seed, (seeds, groups)
    optima: _Array  # with their intervals, (groups, 3)
    caveats: tuple[str, ...]


def scaling(
    runs: xr.Dataset,
    axis: str,
    over: str | Sequence[str],
    *,
    variable: str = "final_loss",
    maximize: bool | None = None,
    confidence: float = 0.95,
) -> Scaling:
    """Fits a power law to the best value of a hyperparameter over sizes.

        optimum = factor * width^a * steps^b * ...

    The optimum at each combination of sizes is computed as in `optimum`, and the law is
    fitted to their logarithms by least squares. Optima at an edge of the grid or with
    an unbounded interval are excluded. Intervals reflect the noise of the seeds,
    including noise that the sizes share, because the influence of each seed on all
    optima is propagated through the fit. `held_out_error` measures whether a power law
    is adequate.

    Args:
      runs: the dataset of `sweep`. To scale over the number of steps, join sweeps:
        `xarray.concat([short, long], pandas.Index([100, 200], name="steps"))`.
      axis: the hyperparameter, with positive values.
      over: one or more axes of sizes, with positive numbers. They can be static, such
        as `width=static([32, 64])`.
      variable: a variable with one value per run.
      maximize: whether larger values are better. None uses the problem's metadata, and
        minimizes by default.
      confidence: confidence level of the intervals, in (0, 1).

    Returns:
      A `Scaling`. For each combination of sizes, all other axes are fixed at their
      values at its best point.

    Raises:
      ValueError: If the dataset lacks an axis, values are not positive numbers, or
        there are fewer optima inside the grid than parameters of the law.

    Example:
      >>> import numpy as np, optax, stabjax
      >>> def make_problem(curvature):
      ...     return stabjax.problems.quadratic(curvature, noise=1.0)
      >>> def make_optimizer(rate):
      ...     return optax.sgd(rate)
      >>> space = stabjax.grid(
      ...     rate=np.logspace(-2.5, -0.25, 10), curvature=[1, 2.0, 4], seed=range(8)
      ... )
      >>> runs = stabjax.sweep(make_problem, make_optimizer, space, steps=20)
      >>> law = stabjax.runs.scaling(runs, "rate", over="curvature")
      >>> round(law.exponents["curvature"].value, 1)
      -0.9
    """
    check("confidence", confidence, "in (0, 1)")
    names = [over] if isinstance(over, str) else list(over)
    groups = _groups(runs, axis, names)
    found = _optima(groups, axis, variable, maximize, confidence)
    rows = np.column_stack([np.ones(len(found.at)), found.logs])
    if np.linalg.matrix_rank(rows) < rows.shape[1]:
        raise ValueError(
            f"runs must contain an optimum inside the grid at {rows.shape[1]} or more "
            f"sizes of {', '.join(names)}, got {len(found.at)}. "
            f"{' '.join(found.caveats)}"
        )
    solve = np.linalg.pinv(rows)
    at, of_seeds = solve @ found.at, found.influence @ solve.T
    seeds = len(of_seeds)
    covariance = np.full((len(at), len(at)), np.nan)
    if seeds > 1:
        covariance = np.atleast_2d(np.cov(of_seeds.T)) / seeds
    half = stdtrit(max(seeds - 1, 1), 0.5 + confidence / 2) * np.sqrt(
        np.diag(covariance)
    )
    factor, *powers = np.array([at, at - half, at + half]).T.tolist()
    return Scaling(
        axis=axis,
        factor=float(np.exp(factor[0])),
        exponents={n: Estimate(*row) for n, row in zip(names, powers, strict=True)},
        covariance=tuple(map(tuple, covariance.tolist())),
        held_out_error=_held_out_error(rows, found.at),
        sizes=tuple(
            dict(zip(names, row, strict=True)) for row in np.exp(found.logs).tolist()
        ),
        optima=tuple(Estimate(*optimum) for optimum in found.optima.tolist()),
        seeds=seeds,
        confidence=confidence,
        caveats=tuple(_caveats(found, rows, at, names)),
    )


def _groups(
    runs: xr.Dataset, axis: str, names: Sequence[str]
) -> Iterator[tuple[dict[str, Any], xr.Dataset]]:
    """Yields each combination of sizes, and its runs."""
    for name in names:
        if name not in runs.dims or name in ("seed", "step", axis):
            known = [str(n) for n in runs["status"].dims if n not in ("seed", axis)]
            raise ValueError(f"over must be among {', '.join(known)}, got {name!r}.")
        values = runs[name].values
        if values.dtype.kind not in "iuf" or not (values > 0).all():
            raise ValueError(f"over must contain positive numbers, got {name!r}.")
    for positions in itertools.product(*(range(runs.sizes[name]) for name in names)):
        group = runs.isel(dict(zip(names, positions, strict=True)))
        yield {name: group[name].item() for name in names}, group


def _optima(
    groups: Iterator[tuple[dict[str, Any], xr.Dataset]],
    axis: str,
    variable: str,
    maximize: bool | None,
    confidence: float,
) -> _Optima:
    logs, fits, left_out, dropped = [], [], [], 0
    for sizes, group in groups:
        table = table_of(group, axis, variable, maximize)
        usable = np.isfinite(table.values) & np.isfinite(table.scores).all(axis=0)
        values = table.values[usable]
        if not (values > 0).all():
            raise ValueError(f"axis must contain positive numbers, got {axis!r}.")
        fit = fitted(np.log(values), table.scores[:, usable], confidence)
        dropped = max(dropped, table.dropped)
        text = ", ".join(f"{name}={shown(value)}" for name, value in sizes.items())
        if fit is None or not fit.places[0] < fit.at < fit.places[-1]:
            left_out.append(f"{text} (at an edge)")
        elif np.isinf([fit.low, fit.high]).any():
            left_out.append(f"{text} (flat minimum)")
        else:
            logs.append([np.log(value) for value in sizes.values()])
            fits.append(fit)
    caveats = seeds_left_out(dropped)
    if 2 * sum(fit.coarse for fit in fits) > len(fits):
        coarse = f"the values of {axis} are too far apart to fit a curve."
        caveats = (coarse, *caveats)
    if left_out:
        caveats = (f"excluded: {'; '.join(left_out)}.", *caveats)
    seeds = {len(fit.influence) for fit in fits}
    if len(seeds) > 1:
        raise ValueError(f"runs must have the same seeds at all sizes, got {seeds}.")
    return _Optima(
        np.reshape(logs, (len(fits), -1)),
        np.array([fit.at for fit in fits]),
        np.array([fit.influence for fit in fits]).T,
        np.exp([[fit.at, fit.low, fit.high] for fit in fits]),
        caveats,
    )


def _held_out_error(rows: _Array, at: _Array) -> float:
    """Returns the error of predicting each optimum from the others, as a factor."""
    leverage = np.diag(rows @ np.linalg.pinv(rows))
    if len(at) <= rows.shape[1] or np.isclose(leverage, 1.0).any():
        return float("nan")
    residuals = at - rows @ (np.linalg.pinv(rows) @ at)
    # Leaving one out of a least-squares fit divides its residual by 1 - leverage.
    return float(np.exp(np.sqrt(np.mean((residuals / (1 - leverage)) ** 2))))


def _caveats(
    found: _Optima, rows: _Array, powers: _Array, names: Sequence[str]
) -> Iterator[str]:
    yield from found.caveats
    if len(found.influence) == 1:
        yield "one seed: there is no interval. Add an axis seed=range(8)."
    for position, name in enumerate(names):
        span = np.exp(np.ptp(found.logs[:, position]))
        if span < 4:
            yield f"{name} spans only a factor of {span:.2g}."
    if len(found.at) <= rows.shape[1]:
        yield "the law has as many parameters as optima: no prediction error."
    elif len(found.influence) > 1:
        yield from _misfit(found, rows, powers)


def _misfit(found: _Optima, rows: _Array, powers: _Array) -> Iterator[str]:
    """Yields a caveat if the residuals are larger than the noise of the seeds."""
    seeds = len(found.influence)
    project = np.eye(len(rows)) - rows @ np.linalg.pinv(rows)
    residuals = found.at - rows @ powers
    errors = (found.influence @ project).std(axis=0, ddof=1) / np.sqrt(seeds)
    quantile = stdtrit(seeds - 1, 1 - 0.025 / len(rows))
    if (np.abs(residuals) > quantile * np.maximum(errors, 1e-12)).any():
        yield "the optima deviate from the law by more than the noise between seeds."
