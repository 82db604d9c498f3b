"""Measures of the treatments on a problem, with one value per seed."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy import stats

from stabjax._intervals import LEAST_SHARE, Estimate, decades, wilson

MIN_SEEDS = 6  # with fewer, a sign test at the 5% level is never significant

_LATE = 0.1  # fraction of the steps that counts as late
_EQUAL = 0.05  # relative differences below this value are ignored
_AT_THRESHOLD = 0.01  # relative tolerance for norms equal to the threshold
_CONFIDENCE = 0.95


class Comparison(NamedTuple):
    """A sign test of two treatments, paired by seed."""

    smaller: int  # number of seeds whose first value is smaller
    larger: int
    sign: int  # -1 or 1 if the difference is significant, else 0


def measure(runs: xr.Dataset) -> xr.Dataset:
    """Computes the measures of each treatment from the result of `observe`.

    Returns:
      A dataset with the dimensions `treatment` and `seed`:

      - Over all rates: `stable` and `reached`, the fractions of stable runs and of runs
        that reach the target. Without the dimension `seed`: `width`, the usable
        learning rates in decades, and `median`, the median final loss of all runs.
      - At the tuned rate of the treatment: `steps`, `final` and, if there are test
        data, `gap` (test loss - training loss) and `accuracy`.
      - At the untuned rate: `untuned` (final loss), `untuned_stable` and `untuned_norm`
        (largest norm of the optimizer's input).
      - At the common rate, which is the best one for the baseline: `common_steps` (the
        steps to the target), `rises` (the fraction of steps at which the loss
        increases), `roughness` (the mean absolute second difference of the log10 loss),
        `swing` (the range of the loss in the last 10% of the steps) and `wobble` (the
        swing divided by the mean loss).
      - At the common rate, before the target is reached: `first_norm`, `median_norm`
        and `largest_norm` of the optimizer's input, and `at_threshold`, the fraction of
        steps at which the norm equals the threshold.
      - `chosen_threshold` and `chosen_rate`: the hyperparameters of these runs.
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
    # Includes at least one step, because the target can be reached at step 0.
    before = curve.step < np.maximum(found.common_steps, 1)
    norms = _norms(curve.update_norm.where(before), runs.chosen_threshold)
    found = found.merge(_shape(curve.loss, target)).merge(norms)
    found["untuned_norm"] = runs.update_norm.sel(rate="untuned").max("step")
    found = found.drop_vars("rate", errors="ignore")
    chosen = runs[["chosen_threshold", "chosen_rate"]]
    return found.merge(chosen).assign_attrs(runs.attrs)


def mean_of_seeds(per_seed: xr.DataArray) -> Estimate:
    """Returns the mean over the seeds with a bootstrap interval.

    Seeds are resampled because runs with the same seed at different rates are not
    independent.
    """
    return _interval(per_seed.to_numpy().astype(float), np.mean)


def ratio(first: xr.DataArray, second: xr.DataArray) -> Estimate | None:
    """Returns the median ratio over the seeds, or None if all denominators are inf."""
    # A target that is reached at step 0 would make the ratio undefined.
    pairs = [np.maximum(v.to_numpy().astype(float), 1.0) for v in (first, second)]
    finite = np.isfinite(pairs[1])
    if not finite.any():
        return None
    return _interval(pairs[0][finite] / pairs[1][finite], np.median)


def _interval(
    values: np.ndarray, center: Callable[..., np.floating | np.ndarray]
) -> Estimate:
    # The seed is fixed because the report must be reproducible.
    draws = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    tail = (1 - _CONFIDENCE) / 2
    # "nearest" avoids interpolation because ratios can be infinite.
    ends = np.quantile(
        center(values[draws], axis=1), [tail, 1 - tail], method="nearest"
    )
    return Estimate(float(center(values)), float(ends[0]), float(ends[1]))


def fraction_of_seeds(yes: xr.DataArray) -> Estimate:
    """Returns the fraction of seeds that are true, with its Wilson score interval."""
    count, size = int(yes.sum()), yes.size
    low, high = wilson(count, size, _CONFIDENCE)
    return Estimate(count / size, float(low), float(high))


def compare(
    first: xr.DataArray, second: xr.DataArray, floor: float = 0.0
) -> Comparison:
    """Runs a sign test on paired values, ignoring differences below 5%."""
    pairs = zip(first.to_numpy(), second.to_numpy(), strict=True)
    signs = [compare_numbers(float(a), float(b), floor) for a, b in pairs]
    smaller, larger = signs.count(-1), signs.count(1)
    # A sign test ignores ties.
    decided = smaller + larger
    significant = decided and stats.binomtest(smaller, decided).pvalue < 1 - _CONFIDENCE
    return Comparison(
        smaller, larger, int(np.sign(larger - smaller)) if significant else 0
    )


def compare_numbers(first: float, second: float, floor: float = 0.0) -> int:
    """Returns -1, 0 or 1 if `first` is smaller than, equal to or above `second`."""
    first, second = max(first, floor), max(second, floor)
    if first == second or np.isclose(first, second, rtol=_EQUAL, atol=0.0):
        return 0
    return -1 if first < second else 1


def _of_treatments(values: xr.Dataset, runs: xr.Dataset) -> xr.Dataset:
    """Selects the runs of each treatment at all rates."""
    return values.sel(
        threshold=runs.chosen_threshold, scheduled=runs.chosen_scheduled
    ).drop_vars(["threshold", "scheduled"])


def _at_rate(runs: xr.Dataset, rate: str) -> xr.Dataset:
    """Selects the runs of each treatment at its chosen rate."""
    swept = [name for name, v in runs.data_vars.items() if "peak_value" in v.dims]
    chosen = runs.chosen_rate.sel(rate=rate, drop=True)
    all_rates = _of_treatments(runs[swept], runs)
    return all_rates.sel(peak_value=chosen).drop_vars("peak_value")


def _width(reached: xr.DataArray) -> xr.DataArray:
    """Computes the width of the usable range of learning rates in decades."""
    parts = xr.DataArray(decades(reached.peak_value), dims="peak_value")
    width: xr.DataArray = ((reached.mean("seed") >= LEAST_SHARE) * parts).sum(
        "peak_value"
    )
    return width


def _shape(loss: xr.DataArray, target: float) -> xr.Dataset:
    """Computes the roughness and the late swing, which are inf if a run diverges."""
    stable = (loss < np.inf).all("step")
    loss = loss.where(stable, 1.0).transpose("treatment", "seed", "step")
    values = loss.to_numpy().astype(float)
    # Losses far below the target differ mainly by rounding errors, which would
    # dominate the roughness.
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
    """Computes the norms of each run and the fraction that equals the threshold."""
    at = abs(norms / threshold - 1) <= _AT_THRESHOLD
    return xr.Dataset(
        {
            "first_norm": norms.isel(step=0, drop=True),
            "median_norm": norms.reduce(np.nanmedian, "step"),
            "largest_norm": norms.max("step"),
            "at_threshold": at.where(norms.notnull()).mean("step"),
        }
    )
