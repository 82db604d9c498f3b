"""What the runs of a problem say about each remedy: numbers for every seed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy import stats

from stabjax._intervals import LEAST_SHARE, decades, wilson

LATE_SHARE = 0.1  # of the steps: what counts as late
LEAST_SEEDS = 6  # of which a sign test at 5 % can say anything

_ALIKE = 0.05  # a relative difference that counts as none
_AT_THRESHOLD = 0.01  # a relative difference from it
_CONFIDENCE = 0.95

_Array = np.ndarray[Any, Any]


class Interval(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Seed by seed, where the same start and the same noise met two remedies."""

    smaller: int  # seeds whose first value is the smaller one
    larger: int
    sign: int  # -1 or 1 if that is more than chance, else 0


def measure(runs: xr.Dataset) -> xr.Dataset:
    """Everything the report says about a problem's remedies, from `observe`'s dataset.

    Returns:
      A dataset over `remedy` and `seed`.

      - Over all rates: `hold` and `reach`, the shares of rates at which the seed's run
        did not diverge, and ended at the target or below. Over `remedy` alone: `width`,
        decades of rates that train, and `median`, final loss of all.
      - At the remedy's tuned rate: `steps`, `final` and, if there are test data, `gap`
        (test loss - training loss) and `accuracy`.
      - At the untuned rate: `untuned` (final loss), `untuned_held`, `untuned_norm` (the
        largest norm that the optimizer got).
      - At the common rate, the tuned one of neither: `common_steps`; `rises`, the share
        of steps in which the loss rose; `roughness`, the mean absolute second
        difference of the loss's decimal logarithm; `swing`, largest less smallest loss
        late, and `wobble`, the same over their mean; of the norm that the optimizer got
        `first_norm`, `median_norm`, `largest_norm` and `at_threshold`, the share of
        steps in which it is the threshold, all before the target is reached.
      - `chosen_threshold` and `chosen_rate`, which runs these are.
    """
    target = runs.attrs["target_loss"]
    every = _of_remedies(runs[["final_loss", "status"]], runs)
    found = xr.Dataset(
        {
            "hold": (every.status == 0).mean("peak_value"),
            "reach": (every.final_loss <= target).mean("peak_value"),
            "width": _width(every.final_loss <= target),
            "median": every.final_loss.reduce(np.median, ["peak_value", "seed"]),
        }
    )
    tuned, common, untuned = (_at_rate(runs, r) for r in ("tuned", "common", "untuned"))
    found["steps"] = tuned.steps_to_target
    found["final"] = tuned.final_loss
    found["common_steps"] = common.steps_to_target
    found["untuned"] = untuned.final_loss
    found["untuned_held"] = untuned.status == 0
    if {"train_loss", "test_loss", "test_accuracy"} <= set(runs.data_vars):
        held = tuned.status == 0
        found["gap"] = (tuned.test_loss - tuned.train_loss).where(held, np.inf)
        found["accuracy"] = tuned.test_accuracy.where(held, 0.0)
    curve = runs.sel(rate="common")
    before = curve.step < np.maximum(found.common_steps, 1)
    norms = _norms(curve.update_norm.where(before), runs.chosen_threshold)
    found = found.merge(_shape(curve.loss, target)).merge(norms)
    found["untuned_norm"] = runs.update_norm.sel(rate="untuned").max("step")
    found = found.drop_vars("rate", errors="ignore")
    chosen = runs[["chosen_threshold", "chosen_rate"]]
    return found.merge(chosen).assign_attrs(runs.attrs)


def share(per_seed: xr.DataArray) -> Interval:
    """A mean over seeds with its interval, found by drawing the seeds again.

    Runs of one seed at many rates are not independent, so the seeds are what is drawn.
    """
    return _interval(per_seed.to_numpy().astype(float), np.mean)


def ratio(first: xr.DataArray, second: xr.DataArray) -> Interval | None:
    """The median over the seeds of first / second; None where all seconds are inf."""
    pairs = [np.maximum(v.to_numpy().astype(float), 1.0) for v in (first, second)]
    finite = np.isfinite(pairs[1])
    if not finite.any():
        return None
    return _interval(pairs[0][finite] / pairs[1][finite], np.median)


def _interval(values: _Array, middle: Callable[..., Any]) -> Interval:
    draws = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    tail = (1 - _CONFIDENCE) / 2
    # No value between two: one of them may be infinite.
    ends = np.quantile(
        middle(values[draws], axis=1), [tail, 1 - tail], method="nearest"
    )
    return Interval(float(middle(values)), float(ends[0]), float(ends[1]))


def share_of_seeds(yes: xr.DataArray) -> Interval:
    """The share of seeds for which something is so, with Wilson's interval."""
    count, size = int(yes.sum()), yes.size
    low, high = wilson(count, size, _CONFIDENCE)
    return Interval(count / size, float(low), float(high))


def compare(
    first: xr.DataArray, second: xr.DataArray, floor: float = 0.0
) -> Comparison:
    """Sign test of paired values; what is within 5 % or below the floor is equal."""
    pairs = zip(first.to_numpy(), second.to_numpy(), strict=True)
    signs = [compare_numbers(float(a), float(b), floor) for a, b in pairs]
    smaller, larger = signs.count(-1), signs.count(1)
    decided = smaller + larger
    clear = decided and stats.binomtest(smaller, decided).pvalue < 1 - _CONFIDENCE
    return Comparison(smaller, larger, int(np.sign(larger - smaller)) if clear else 0)


def compare_numbers(first: float, second: float, floor: float = 0.0) -> int:
    """-1 if the first is smaller, 1 if it is larger, 0 if that is hardly so."""
    first, second = max(first, floor), max(second, floor)
    if first == second or np.isclose(first, second, rtol=_ALIKE, atol=0.0):
        return 0
    return -1 if first < second else 1


def _of_remedies(values: xr.Dataset, runs: xr.Dataset) -> xr.Dataset:
    """The runs of each remedy, at all rates."""
    return values.sel(
        threshold=runs.chosen_threshold, scheduled=runs.chosen_scheduled
    ).drop_vars(["threshold", "scheduled"])


def _at_rate(runs: xr.Dataset, rate: str) -> xr.Dataset:
    """The runs of each remedy at the rate chosen for it."""
    swept = [name for name, v in runs.data_vars.items() if "peak_value" in v.dims]
    chosen = runs.chosen_rate.sel(rate=rate, drop=True)
    every = _of_remedies(runs[swept], runs)
    return every.sel(peak_value=chosen).drop_vars("peak_value")


def _width(reached: xr.DataArray) -> xr.DataArray:
    """Decades of rates that train."""
    parts = xr.DataArray(decades(reached.peak_value), dims="peak_value")
    width: xr.DataArray = ((reached.mean("seed") >= LEAST_SHARE) * parts).sum(
        "peak_value"
    )
    return width


def _shape(loss: xr.DataArray, target: float) -> xr.Dataset:
    """How smooth the curves are, how much they swing late; inf where one diverged."""
    held = (loss < np.inf).all("step")
    loss = loss.where(held, 1.0).transpose("remedy", "seed", "step")
    values = loss.to_numpy().astype(float)
    logs = np.log10(np.maximum(values, 1e-3 * target))
    late = values[..., -max(round(LATE_SHARE * values.shape[-1]), 2) :]
    swing = np.ptp(late, axis=-1)
    level = np.maximum(late.mean(axis=-1), np.finfo(np.float32).tiny)
    numbers = {
        "rises": (np.diff(values) > 0).mean(axis=-1),
        "roughness": np.abs(np.diff(logs, 2)).mean(axis=-1),
        "swing": swing,
        "wobble": swing / level,
    }
    found = xr.Dataset(
        {name: (held.dims, v) for name, v in numbers.items()}, held.coords
    )
    return found.where(held, np.inf)


def _norms(norms: xr.DataArray, threshold: xr.DataArray) -> xr.Dataset:
    """The norms of each run, and the share of them that is the threshold."""
    at = abs(norms / threshold - 1) <= _AT_THRESHOLD
    return xr.Dataset(
        {
            "first_norm": norms.isel(step=0, drop=True),
            "median_norm": norms.reduce(np.nanmedian, "step"),
            "largest_norm": norms.max("step"),
            "at_threshold": at.where(norms.notnull()).mean("step"),
        }
    )
