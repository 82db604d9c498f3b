"""Comparing treatments, each with its own best settings."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.special import nctdtr, stdtr, stdtrit

from stabjax._arguments import check, check_choice
from stabjax._intervals import Estimate
from stabjax._types import Label
from stabjax.runs.answers import (
    Answer,
    counted,
    named,
    percent,
    shown,
    with_caveats,
)
from stabjax.runs.points import hyperparameters
from stabjax.runs.tables import complete, scores_of, seeds_left_out, unknown_axis

_Array = np.ndarray[Any, Any]

_SPLITS = 20  # of the seeds into halves
_POWER = 0.8  # probability that a difference is shown with `seeds_needed` seeds
_MOST = 10**6  # seeds


class Treatment(NamedTuple):
    """A treatment with its own best settings.

    Attributes:
      name: the value of the compared axis.
      settings: the values of the other axes with the best mean over all seeds.
      mean: the mean of the variable over seeds that were not used to choose settings.
      stable: whether there are settings without a diverged run.
    """

    name: Label
    settings: Mapping[str, object]
    mean: float
    stable: bool


class Difference(NamedTuple):
    """The paired difference between two treatments.

    Attributes:
      treatment: the name of the treatment.
      baseline: the name of the other treatment.
      difference: the mean of the variable with the treatment minus the mean with the
        baseline, with a confidence interval.
      p_value: the p-value after Holm's correction for all differences, or NaN if it
        cannot be computed.
      seeds_needed: the number of seeds that would show a difference of this size with
        a power of 80%, or None if it cannot be computed.
    """

    treatment: Label
    baseline: Label
    difference: Estimate
    p_value: float
    seeds_needed: int | None


@dataclass(frozen=True, repr=False)
class Comparison(Answer):
    """A comparison of treatments, as returned by `compare`.

    Attributes:
      axis: the compared axis.
      variable: the compared variable.
      treatments: a `Treatment` for each value of the axis.
      differences: a `Difference` for each pair, or for each treatment and the baseline.
      best: the treatment that is significantly better than all others, or None.
      seeds: number of seeds.
      confidence: confidence level of the intervals.
      caveats: sentences about the limits of the answer.
    """

    axis: str
    variable: str
    treatments: tuple[Treatment, ...]
    differences: tuple[Difference, ...]
    best: Label
    seeds: int
    confidence: float
    caveats: tuple[str, ...]

    def __str__(self) -> str:
        """Returns the answer in a few lines of text."""
        lines = [
            f"mean {self.variable} of each {self.axis} at its own best settings "
            f"({counted(self.seeds, 'seed')}):"
        ]
        width = max(len(shown(treatment.name)) for treatment in self.treatments)
        for name, settings, mean, stable in self.treatments:
            text = f"{mean:.4g}" if stable else "diverges"
            where = f" at {named(settings)}" if settings else ""
            lines.append(f"  {shown(name):{width}}  {text}{where}")
        lines += [_line(found, self.confidence) for found in self.differences]
        return with_caveats(lines, self.caveats)


def _line(found: Difference, confidence: float) -> str:
    pair = f"{shown(found.treatment)} - {shown(found.baseline)}"
    text = f"{pair}: {found.difference}"
    if not np.isfinite(found.p_value):
        return text
    text += f" ({percent(confidence)} interval), p = {found.p_value:.2g}: "
    if found.p_value < 1 - confidence:
        return text + "they differ"
    text += "no difference shown"
    if found.seeds_needed:
        text += f"; {found.seeds_needed} seeds would show one of this size"
    return text


def compare(
    runs: xr.Dataset,
    axis: str,
    *,
    baseline: object = None,
    variable: str = "final_loss",
    maximize: bool | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Compares treatments with their own best settings by paired differences.

    The settings of a treatment are the values of all other axes with the best mean over
    the seeds. On the seeds that select it, this mean is biased (the winner's curse), in
    particular for treatments with many settings. Therefore, one half of the seeds
    selects and the other half is compared, and the loss of a seed is its mean over 20
    random halves. The confidence interval of the mean difference d is

        d +- t(confidence, n - 1) sqrt(s^2 / n + (c_1 + c_2) / 2)

    where s is the standard deviation of the n paired differences at the settings that
    all seeds select. The selection is uncertain if several settings are similarly good:
    c_1 and c_2 are the variances, over the halves, of the mean of all seeds at the
    settings that a half selects. `benchmarks/answers.py` measures the coverage of the
    intervals.

    Differences are paired by seed, because runs with the same seed share their initial
    parameters and minibatches. P-values are corrected for multiple comparisons with
    Holm's method, and intervals are not. Settings with a diverged run are not selected.

    Args:
      runs: the dataset of `sweep` or `successive_halving`, or a part of it.
      axis: the axis whose values are the treatments.
      baseline: the value to compare the others with. None compares all pairs.
      variable: a variable with one value per run.
      maximize: whether larger values are better. None uses the problem's metadata, and
        minimizes by default.
      confidence: confidence level of each interval, in (0, 1).

    Returns:
      A `Comparison`.

    Raises:
      ValueError: If the dataset lacks the axis or the variable, or the axis lacks the
        baseline or a second value.

    Example:
      >>> import numpy as np, optax, stabjax
      >>> def make_optimizer(rate, method):
      ...     return {"sgd": optax.sgd, "adam": optax.adam}[method](rate)
      >>> space = stabjax.grid(
      ...     method=["sgd", "adam"], rate=np.logspace(-2, 0, 5), seed=range(8)
      ... )
      >>> problem = stabjax.problems.quadratic()
      >>> runs = stabjax.sweep(problem, make_optimizer, space, steps=20)
      >>> stabjax.runs.compare(runs, "method").best
      'sgd'

    References:
      S. Holm, "A simple sequentially rejective multiple test procedure", 1979,
      https://www.jstor.org/stable/4615733.
    """
    check("confidence", confidence, "in (0, 1)")
    scores, sign = scores_of(runs, variable, maximize)
    others = [dim for dim in scores.dims if dim != "seed"]
    labels = _labels(scores, axis).transpose(*others).values.ravel()
    scores = scores.transpose("seed", *others)
    table, kept, dropped = complete(scores.values.reshape(scores.sizes["seed"], -1))
    names = list(dict.fromkeys(labels[kept].tolist()))
    if len(names) < 2:
        raise ValueError(f"{axis} must have two values to compare, got {names[0]!r}.")
    if baseline is not None:
        check_choice("baseline", baseline, names)
    arms = {name: _tuned(table, kept, labels[kept] == name) for name in names}
    shape = tuple(scores.sizes[dim] for dim in others)

    def settings(point: int) -> dict[str, object]:
        index = dict(zip(others, np.unravel_index(point, shape), strict=True))
        found = hyperparameters(runs.isel(index))
        return {n: v for n, v in found.items() if n != axis and runs[n].size > 1}

    treatments = tuple(
        Treatment(
            name, settings(arm.point) if arm.stable else {}, sign * arm.mean, arm.stable
        )
        for name, arm in arms.items()
    )
    pairs = [(name, baseline) for name in names if name != baseline]
    if baseline is None:
        pairs = list(itertools.combinations(names, 2))
    found = [_difference(arms, *pair, sign, confidence) for pair in pairs]
    differences = _adjusted(found)
    best = _best(names, differences, sign, confidence) if baseline is None else None
    return Comparison(
        axis=axis,
        variable=variable,
        treatments=treatments,
        differences=differences,
        best=best,
        seeds=len(table),
        confidence=confidence,
        caveats=tuple(_caveats(axis, arms, len(table), dropped)),
    )


class _Arm(NamedTuple):
    """One treatment, tuned."""

    point: int  # among all points: the settings that all seeds choose
    chosen: _Array  # its score for each seed
    held_out: _Array  # the score of each seed at settings that other seeds choose
    choice: float  # variance of the mean over the settings that halves choose
    stable: bool

    @property
    def mean(self) -> float:
        return float(self.held_out.mean())


def _labels(scores: xr.DataArray, axis: str) -> xr.DataArray:
    """Returns the value of the axis at each point."""
    if axis not in scores.coords or axis == "seed" or not scores[axis].dims:
        known = [str(name) for name, c in scores.coords.items() if c.dims]
        known = [name for name in known if name not in ("seed", "trial")]
        raise unknown_axis(axis, known)
    return scores[axis].broadcast_like(scores.isel(seed=0, drop=True))


def _tuned(table: _Array, points: _Array, mine: _Array) -> _Arm:
    scores, points = table[:, mine], points[mine]
    stable = np.isfinite(scores).all(axis=0)
    if stable.any():
        scores, points = scores[:, stable], points[stable]
    best = int(scores.mean(axis=0).argmin())
    chosen = scores[:, best]
    if len(scores) == 1 or not stable.any():
        return _Arm(int(points[best]), chosen, chosen, 0.0, bool(stable.any()))
    halves = _halves(len(scores))
    choices = (halves @ scores / halves.sum(axis=1, keepdims=True)).argmin(axis=1)
    held_out = ((1 - halves.T) * scores[:, choices]).sum(axis=1) / _SPLITS
    choice = float(scores.mean(axis=0)[choices].var())
    return _Arm(int(points[best]), chosen, held_out, choice, True)


def _halves(seeds: int) -> _Array:
    """Returns the seeds that choose, as rows of 0 and 1: random halves and the rest."""
    order = np.random.default_rng(0).permuted(
        np.tile(np.arange(seeds), (_SPLITS, 1)), axis=1
    )
    half = (order < seeds // 2).astype(float)
    return np.concatenate([half, 1 - half])


def _difference(
    arms: Mapping[Any, _Arm], name: Any, other: Any, sign: float, confidence: float
) -> Difference:
    """Returns a paired difference, with a p-value that is not adjusted."""
    one, two = arms[name], arms[other]
    seeds = len(one.chosen)
    if not (one.stable and two.stable):
        worse = float(two.stable) - float(one.stable) or np.nan
        infinite = Estimate(sign * worse * np.inf, np.nan, np.nan)
        return Difference(name, other, infinite, np.nan, None)
    difference = one.mean - two.mean
    if seeds < 2:
        alone = Estimate(sign * difference, np.nan, np.nan)
        return Difference(name, other, alone, np.nan, None)
    # c is the variance of the delete-half jackknife for a single choice. The mean over
    # choices varies less. With four or more seeds, intervals with half of c contain
    # the true difference in 93 to 98% of draws, and in 92 to 97% without it.
    variance = (one.chosen - two.chosen).var(ddof=1) / seeds
    error = float(np.sqrt(variance + (one.choice + two.choice) / 2))
    spread = error * np.sqrt(seeds)
    half = stdtrit(seeds - 1, 0.5 + confidence / 2) * error
    t = abs(difference) / error if error else np.inf * abs(difference)
    signed = sign * difference
    return Difference(
        name,
        other,
        Estimate(signed, signed - half, signed + half),
        float(2 * stdtr(seeds - 1, -t)) if difference else 1.0,
        _seeds_needed(abs(difference), spread, confidence),
    )


def _seeds_needed(difference: float, spread: float, confidence: float) -> int | None:
    """Returns the smallest number of seeds that would show a difference."""
    if not difference:
        return None
    numbers = np.unique(np.geomspace(2, _MOST, 3000).round())
    effect = difference / spread if spread else np.inf
    quantile = stdtrit(numbers - 1, 0.5 + confidence / 2)
    center = np.minimum(effect * np.sqrt(numbers), 37.0)  # beyond it, the power is 1
    enough = 1 - nctdtr(numbers - 1, center, quantile) >= _POWER
    return int(numbers[enough.argmax()]) if enough.any() else None


def _adjusted(found: Sequence[Difference]) -> tuple[Difference, ...]:
    """Returns the differences with p-values adjusted by Holm's method."""
    known = [k for k, one in enumerate(found) if np.isfinite(one.p_value)]
    known.sort(key=lambda k: found[k].p_value)
    adjusted, largest = list(found), 0.0
    for rank, k in enumerate(known):
        largest = max(largest, (len(known) - rank) * found[k].p_value)
        adjusted[k] = found[k]._replace(p_value=min(1.0, largest))
    return tuple(adjusted)


def _best(
    names: Sequence[Any], found: Sequence[Difference], sign: float, confidence: float
) -> Any:
    """Returns the treatment that is better than each other, or None."""
    wins = []
    for one in found:
        difference = one.difference.value
        if one.p_value < 1 - confidence or np.isinf(difference):
            better = sign * difference < 0
            wins.append(one.treatment if better else one.baseline)
    best = [name for name in names if wins.count(name) == len(names) - 1]
    return best[0] if best else None


def _caveats(
    axis: str, arms: Mapping[Any, _Arm], seeds: int, dropped: int
) -> Iterator[str]:
    for name, arm in arms.items():
        if not arm.stable:
            yield f"every setting of {axis}={shown(name)} has a diverged run."
    if seeds == 1:
        yield "one seed: there is no interval. Add an axis seed=range(8)."
    elif seeds < 6:
        yield (
            f"{seeds} seeds: the halves that select and compare settings are small, "
            "so the interval assumes normal noise."
        )
    yield from seeds_left_out(dropped)
