"""Measures of each treatment on a problem, one number for every seed."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy import stats

from stabjax._intervals import LEAST_SHARE, decades, wilson

MIN_SEEDS = 6  # with fewer, a sign test at 5 % rejects nothing

_LATE = 0.1  # the last tenth of the steps
_EQUAL = 0.05  # a relative difference that counts as equal
_AT_THRESHOLD = 0.01  # a relative difference from the threshold
_CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A value and its 95% confidence interval."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """A sign test of two treatments, paired by seed (same start, same noise)."""

    smaller: int  # seeds whose first value is smaller
    larger: int
    sign: int  # -1 or 1 if the difference is significant, else 0


def measure(runs: xr.Dataset) -> xr.Dataset:
    """Measures each treatment, from the dataset of `observe`.

    Returns:
      A dataset over `treatment` and `seed`:

      - Over all rates: `stable` and `reached`, the fractions of rates at which the run
        does not diverge, and ends at the target or below. Over `treatment` alone:
        `width`, decades of rates that train, and `median`, the final loss of all runs.
      - At the treatment's tuned rate: `steps`, `final` and, with test data, `gap`
        (test loss - training loss) and `accuracy`.
      - At the untuned rate: `untuned` (final loss), `untuned_stable`, `untuned_norm`
        (largest norm of the optimizer's input).
      - At the common rate, the best one for the baseline: `common_steps`; `rises`, the
        fraction of steps at which the loss rises; `roughness`, the mean absolute second
        difference of log10 of the loss; `swing`, largest - smallest loss in the last
        tenth of the steps, and `wobble`, the same over their mean; before the target is
        reached, `first_norm`, `median_norm`, `largest_norm` of the optimizer's input,
        and `at_threshold`, the fraction of steps at which it equals the threshold.
      - `chosen_threshold` and `chosen_rate`: the runs of these curves.
    """
    target = runs.attrs["target_loss"]
    all_rates = _of_treatments(runs[["final_loss", "status"]], runs)
    found = xr.Dataset(
        {
            "stable": (all_rates.status == 0).mean("peak_value"),
            "reached": (all_rates.final_loss <= target).mean("peak_value"),
            "width": _width(all_rates.final_loss <= target),
            "median": all_rates.final_loss.reduce(np.median, ["peak_value", "seed"]),
        }
    )
    tuned, common, untuned = (_at_rate(runs, r) for r in ("tuned", "common", "untuned"))
    found["steps"] = tuned.steps_to_target
    found["final"] = tuned.final_loss
    found["common_steps"] = common.steps_to_target
    found["untuned"] = untuned.final_loss
    found["untuned_stable"] = untuned.status == 0
    if {"train_loss", "test_loss", "test_accuracy"} <= set(runs.data_vars):
        stable = tuned.status == 0
        found["gap"] = (tuned.test_loss - tuned.train_loss).where(stable, np.inf)
        found["accuracy"] = tuned.test_accuracy.where(stable, 0.0)
    curve = runs.sel(rate="common")
    before = curve.step < np.maximum(found.common_steps, 1)
    norms = _norms(curve.update_norm.where(before), runs.chosen_threshold)
    found = found.merge(_shape(curve.loss, target)).merge(norms)
    found["untuned_norm"] = runs.update_norm.sel(rate="untuned").max("step")
    found = found.drop_vars("rate", errors="ignore")
    chosen = runs[["chosen_threshold", "chosen_rate"]]
    return found.merge(chosen).assign_attrs(runs.attrs)


def mean_of_seeds(per_seed: xr.DataArray) -> Interval:
    """Returns the mean over seeds with its bootstrap interval.

    The seeds are resampled, as runs of one seed at many rates are not independent.
    """
    return _interval(per_seed.to_numpy().astype(float), np.mean)


def ratio(first: xr.DataArray, second: xr.DataArray) -> Interval | None:
    """Returns the median over seeds of first / second; None if all seconds are inf."""
    pairs = [np.maximum(v.to_numpy().astype(float), 1.0) for v in (first, second)]
    finite = np.isfinite(pairs[1])
    if not finite.any():
        return None
    return _interval(pairs[0][finite] / pairs[1][finite], np.median)


def _interval(
    values: np.ndarray, center: Callable[..., np.floating | np.ndarray]
) -> Interval:
    draws = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    tail = (1 - _CONFIDENCE) / 2
    # "nearest" does not interpolate: ratios may be infinite.
    ends = np.quantile(
        center(values[draws], axis=1), [tail, 1 - tail], method="nearest"
    )
    return Interval(float(center(values)), float(ends[0]), float(ends[1]))


def fraction_of_seeds(yes: xr.DataArray) -> Interval:
    """Returns the fraction of seeds that are true, with Wilson's interval."""
    count, size = int(yes.sum()), yes.size
    low, high = wilson(count, size, _CONFIDENCE)
    return Interval(count / size, float(low), float(high))


def compare(
    first: xr.DataArray, second: xr.DataArray, floor: float = 0.0
) -> Comparison:
    """Returns a sign test of paired values, equal within 5 % or below the floor."""
    pairs = zip(first.to_numpy(), second.to_numpy(), strict=True)
    signs = [compare_numbers(float(a), float(b), floor) for a, b in pairs]
    smaller, larger = signs.count(-1), signs.count(1)
    decided = smaller + larger
    significant = decided and stats.binomtest(smaller, decided).pvalue < 1 - _CONFIDENCE
    return Comparison(
        smaller, larger, int(np.sign(larger - smaller)) if significant else 0
    )


def compare_numbers(first: float, second: float, floor: float = 0.0) -> int:
    """Returns -1 if the first is smaller, 1 if it is larger, 0 if they are equal."""
    first, second = max(first, floor), max(second, floor)
    if first == second or np.isclose(first, second, rtol=_EQUAL, atol=0.0):
        return 0
    return -1 if first < second else 1


def _of_treatments(values: xr.Dataset, runs: xr.Dataset) -> xr.Dataset:
    """The runs of each treatment, at all rates."""
    return values.sel(
        threshold=runs.chosen_threshold, scheduled=runs.chosen_scheduled
    ).drop_vars(["threshold", "scheduled"])


def _at_rate(runs: xr.Dataset, rate: str) -> xr.Dataset:
    """The runs of each treatment at the rate chosen for it."""
    swept = [name for name, v in runs.data_vars.items() if "peak_value" in v.dims]
    chosen = runs.chosen_rate.sel(rate=rate, drop=True)
    all_rates = _of_treatments(runs[swept], runs)
    return all_rates.sel(peak_value=chosen).drop_vars("peak_value")


def _width(reached: xr.DataArray) -> xr.DataArray:
    """Decades of rates that train."""
    parts = xr.DataArray(decades(reached.peak_value), dims="peak_value")
    width: xr.DataArray = ((reached.mean("seed") >= LEAST_SHARE) * parts).sum(
        "peak_value"
    )
    return width


def _shape(loss: xr.DataArray, target: float) -> xr.Dataset:
    """Roughness and late swing of the curves; inf where the run diverges."""
    stable = (loss < np.inf).all("step")
    loss = loss.where(stable, 1.0).transpose("treatment", "seed", "step")
    values = loss.to_numpy().astype(float)
    logs = np.log10(np.maximum(values, 1e-3 * target))
    late = values[..., -max(round(_LATE * values.shape[-1]), 2) :]
    swing = np.ptp(late, axis=-1)
    level = np.maximum(late.mean(axis=-1), np.finfo(np.float32).tiny)
    numbers = {
        "rises": (np.diff(values) > 0).mean(axis=-1),
        "roughness": np.abs(np.diff(logs, 2)).mean(axis=-1),
        "swing": swing,
        "wobble": swing / level,
    }
    found = xr.Dataset(
        {name: (stable.dims, v) for name, v in numbers.items()}, stable.coords
    )
    return found.where(stable, np.inf)


def _norms(norms: xr.DataArray, threshold: xr.DataArray) -> xr.Dataset:
    """Norms of each run, and the fraction of them that equal the threshold."""
    at = abs(norms / threshold - 1) <= _AT_THRESHOLD
    return xr.Dataset(
        {
            "first_norm": norms.isel(step=0, drop=True),
            "median_norm": norms.reduce(np.nanmedian, "step"),
            "largest_norm": norms.max("step"),
            "at_threshold": at.where(norms.notnull()).mean("step"),
        }
    )
