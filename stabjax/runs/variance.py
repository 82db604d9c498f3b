"""Which hyperparameters matter: shares of the variance over the space."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from stabjax._arguments import check
from stabjax._extras import load
from stabjax._intervals import Estimate
from stabjax._types import Label
from stabjax.runs.answers import Answer, basis, with_caveats
from stabjax.runs.points import values_of
from stabjax.runs.tables import complete, scores_of, seeds_left_out

_Array = np.ndarray[Any, Any]

_TAIL = 0.9  # quantile of the losses; the worst tenth should not decide everything
_LOG_RATIO = 100.0  # of the largest to the smallest value of a logarithmic axis


class Effect(NamedTuple):
    """The effect of one hyperparameter, or the interaction of two.

    Attributes:
      axes: the names of one or two axes.
      share: fraction of the variance over the space, in [0, 1], with its confidence
        interval over the seeds.
    """

    axes: tuple[str, ...]
    share: Estimate


class Marginal(NamedTuple):
    """The means of a variable at each value of a hyperparameter, over all others.

    Attributes:
      values: the values of the axis.
      means: the mean of the variable at each value.
    """

    values: tuple[Label, ...]
    means: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class Importance(Answer):
    """The importance of hyperparameters, as returned by `importance`.

    Attributes:
      variable: the name of the variable.
      effects: an `Effect` for each axis and pair of axes, the largest share first.
      rest: share of the interactions of three or more axes.
      noise: expected fraction of the variance that is due to the noise between seeds.
        It is contained in the shares of the effects and the rest.
      marginals: a `Marginal` for each axis, by name.
      cap: the value that replaces larger losses.
      seeds: number of seeds.
      confidence: confidence level of the intervals.
      caveats: sentences about the limits of the answer.
    """

    variable: str
    effects: tuple[Effect, ...]
    rest: float
    noise: float
    marginals: Mapping[str, Marginal]
    cap: float
    seeds: int
    confidence: float
    caveats: tuple[str, ...]

    def __str__(self) -> str:
        """Returns the answer in a few lines of text."""
        names = [" x ".join(effect.axes) for effect in self.effects]
        width = max(map(len, [*names, "rest"]))
        on = basis(self.seeds, self.confidence, {})
        lines = [f"shares of the variance of {self.variable} {on}:"]
        for name, effect in zip(names, self.effects, strict=True):
            share, low, high = effect.share
            line = f"  {name:{width}}  {share:6.1%}"
            lines.append(line if np.isnan(low) else f"{line}  [{low:.1%}, {high:.1%}]")
        if self.rest > 5e-4:
            lines.append(f"  {'rest':{width}}  {self.rest:6.1%}")
        return with_caveats(lines, self.caveats)


def importance(
    runs: xr.Dataset,
    *,
    variable: str = "final_loss",
    maximize: bool | None = None,
    cap: float | None = None,
    confidence: float = 0.95,
) -> Importance:
    """Splits the variance over a space among its hyperparameters (functional ANOVA).

    Let f(x, y, ...) be the mean over the seeds at each point of a grid, and E the mean
    over all values of the other axes. The effects of x and of the pair (x, y) are

        V_x = var E[f | x]
        V_xy = var E[f | x, y] - V_x - V_y

    and their shares are their ratios to the total variance of f. On a grid, this is
    exact, and intervals are computed with the jackknife over the seeds. For points of
    `sample` or `zipped`, Optuna's fANOVA fits a forest and estimates the shares of
    single axes, without intervals.

    Args:
      runs: the dataset of `sweep`, or a part of it. Shares refer to the space of this
        dataset, so select the region of interest.
      variable: a variable with one value per run.
      maximize: whether larger values are better. None uses the problem's metadata, and
        minimizes by default.
      cap: the value that replaces larger losses and those of diverged runs (with
        `maximize`, smaller values). Use a low cap to find out what matters among good
        points. Defaults to the largest finite loss.
      confidence: confidence level of the intervals, in (0, 1).

    Returns:
      An `Importance`.

    Raises:
      ValueError: If the dataset lacks the variable, no axis has two values, or points
        of the grid are missing.
      ModuleNotFoundError: If the space is not a grid and Optuna is not installed.

    Example:
      >>> import numpy as np, optax, stabjax
      >>> def make_optimizer(rate, decay):
      ...     return optax.sgd(rate, momentum=decay)
      >>> space = stabjax.grid(
      ...     rate=np.logspace(-3, -1, 5), decay=[0.0, 0.5, 0.9], seed=range(4)
      ... )
      >>> problem = stabjax.problems.quadratic()
      >>> runs = stabjax.sweep(problem, make_optimizer, space, steps=20)
      >>> found = stabjax.runs.importance(runs)
      >>> [effect.axes for effect in found.effects]
      [('rate',), ('rate', 'decay'), ('decay',)]

    References:
      Hutter, Hoos and Leyton-Brown, "An efficient approach for assessing
      hyperparameter importance", 2014, https://proceedings.mlr.press/v32/hutter14.html.
    """
    check("confidence", confidence, "in (0, 1)")
    scores, sign = scores_of(runs, variable, maximize)
    dims = [str(dim) for dim, n in scores.sizes.items() if dim != "seed" and n > 1]
    if not dims:
        raise ValueError("runs must have an axis with two values, got one point.")
    scores = scores.squeeze([d for d in scores.dims if d not in ("seed", *dims)])
    scores = scores.transpose("seed", *dims)
    losses, kept, dropped = complete(scores.values.reshape(len(scores), -1))
    losses, limit, caveats = _capped(losses, None if cap is None else sign * cap)
    names = {dim: _axes_along(runs, dim) for dim in dims}
    rest = noise = np.nan
    marginals: dict[str, Marginal] = {}
    if any(len(axes) > 1 for axes in names.values()):
        points = scores.isel(seed=0).stack(point=dims).isel(point=kept)  # noqa: PD013
        columns = {
            n: points[n].values.tolist() for some in names.values() for n in some
        }
        effects = _by_forest(columns, losses.mean(axis=0))
        caveats = ("shares are estimated by a forest, for single axes only.", *caveats)
    else:
        table = _on_grid(losses, scores.shape[1:])
        axes = [axes[0] for axes in names.values()]
        effects, rest, noise = _shares(table, axes, confidence)
        marginals = {
            name: Marginal(tuple(values_of(runs[name])), _means(table, k, sign))
            for k, name in enumerate(axes, 1)
        }
    return Importance(
        variable=variable,
        effects=tuple(sorted(effects, key=lambda effect: -effect.share.value)),
        rest=rest,
        noise=noise,
        marginals=marginals,
        cap=sign * limit,
        seeds=len(losses),
        confidence=confidence,
        caveats=(*caveats, *seeds_left_out(dropped)),
    )


def _capped(losses: _Array, cap: float | None) -> tuple[_Array, float, tuple[str, ...]]:
    """Returns losses up to a cap, which is the largest finite one by default."""
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        raise ValueError("runs must contain a run that does not diverge.")
    limit = float(finite.max()) if cap is None else float(cap)
    capped = np.minimum(losses, limit)
    return capped, limit, tuple(_caveats(capped, finite, cap))


def _on_grid(losses: _Array, shape: tuple[int, ...]) -> _Array:
    if losses.shape[1] < np.prod(shape):
        raise ValueError(
            "runs must contain every point of the grid. Finish the sweep, or select "
            "complete points. Points that successive halving drops are missing."
        )
    return losses.reshape(len(losses), *shape)


def _axes_along(runs: xr.Dataset, dim: str) -> list[str]:
    """Returns the hyperparameters along a dimension."""
    if dim != "trial":
        return [dim]
    return [str(n) for n, c in runs.coords.items() if c.dims == (dim,) and n != dim]


def _shares(
    table: _Array, names: Sequence[str], confidence: float
) -> tuple[list[Effect], float, float]:
    """Returns the effects, the share of what is left, and that of the noise."""
    seeds = len(table)
    mean = table.mean(axis=0)
    total = float(mean.var())
    if not total:
        raise ValueError("runs must differ: the variable is the same at all points.")
    means = mean[None]
    if seeds > 1:  # and without each seed, for the jackknife
        means = np.concatenate([means, (seeds * mean - table) / (seeds - 1)])
    variances = dict(_variances(means, len(names)))
    totals = means.reshape(len(means), -1).var(axis=1)
    quantile = stdtrit(max(seeds - 1, 1), 0.5 + confidence / 2)
    effects = []
    for axes, variance in variances.items():
        share, *shares = variance / totals
        error = np.sqrt((seeds - 1) * np.var(shares)) if seeds > 1 else np.nan
        half = quantile * error
        ends = np.clip([share, share - half, share + half], 0.0, 1.0).tolist()
        effects.append(Effect(tuple(names[k] for k in axes), Estimate(*ends)))
    rest = max(0.0, 1.0 - sum(effect.share.value for effect in effects))
    noise = np.nan
    if seeds > 1:
        level = table.reshape(seeds, -1).mean(axis=1)
        alone = table - level.reshape(-1, *[1] * len(names))
        noise = min(1.0, float(alone.var(axis=0, ddof=1).mean()) / seeds / total)
    return effects, rest, noise


def _variances(means: _Array, number: int) -> Iterator[tuple[tuple[int, ...], _Array]]:
    """Yields the variance of each effect of one axis or two, for every row."""
    everything = set(range(number))

    def explained(axes: tuple[int, ...]) -> _Array:
        others = tuple(k + 1 for k in everything - set(axes))
        kept = means.mean(axis=others) if others else means
        found: _Array = kept.reshape(len(means), -1).var(axis=1)
        return found

    alone = {k: explained((k,)) for k in range(number)}
    for k, variance in alone.items():
        yield (k,), variance
    for pair in itertools.combinations(range(number), 2):
        yield pair, explained(pair) - alone[pair[0]] - alone[pair[1]]


def _means(table: _Array, axis: int, sign: float) -> tuple[float, ...]:
    others = tuple(k for k in range(table.ndim) if k != axis)
    return tuple((sign * table.mean(axis=others)).tolist())


def _caveats(losses: _Array, finite: _Array, cap: float | None) -> Iterator[str]:
    diverged = 1 - finite.size / losses.size
    if diverged and cap is None:
        yield (
            f"{diverged:.0%} of the runs diverged and count as the largest finite loss."
        )
    means = losses.mean(axis=0)
    spread = np.minimum(means, np.quantile(means, _TAIL)).var()
    if means.var() > 4 * spread:
        yield (
            "the worst tenth of the points makes up most of the variance: pass a lower "
            "cap to find out what matters among the others."
        )


def _by_forest(columns: Mapping[str, Sequence[Any]], losses: _Array) -> list[Effect]:
    """Returns the shares of single axes by Optuna's fANOVA."""
    optuna = load("optuna", needed_by="importance of a sampled space", extra="optuna")
    distributions = {n: _distribution(optuna, v) for n, v in columns.items()}
    study = optuna.create_study()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        for row, loss in zip(zip(*columns.values(), strict=True), losses, strict=True):
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(zip(columns, row, strict=True)),
                    distributions=distributions,
                    value=float(loss),
                )
            )
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return [
        Effect((name,), Estimate(float(share), np.nan, np.nan))
        for name, share in shares.items()
    ]


def _distribution(optuna: Any, values: Sequence[Any]) -> Any:
    if not all(type(value) in (int, float) and np.isfinite(value) for value in values):
        return optuna.distributions.CategoricalDistribution(list(dict.fromkeys(values)))
    low, high = min(values), max(values)
    log = low > 0 and high / low >= _LOG_RATIO
    kinds = {int: "IntDistribution", float: "FloatDistribution"}
    make = getattr(optuna.distributions, kinds[type(values[0])])
    return make(low, high, log=log)
