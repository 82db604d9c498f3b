"""The experiment of the study, which trains all treatments in one sweep."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import xarray as xr

import stabjax
from stabjax._sweep import grid, sweep
from stabjax._sweep.planning import fingerprint
from stabjax._sweep.space import Space
from stabjax.study.methods import make_optimizer_from
from stabjax.study.plan import Plan

UNTUNED_FACTOR = 10  # ratio of the untuned rate to the best one for the baseline
SOLVED = 1e-3  # losses below this fraction of the target count as equal

# Treatment -> (clipped, scheduled, whether the threshold is tuned).
TREATMENTS: Mapping[str, tuple[bool, bool, bool]] = MappingProxyType(
    {
        "baseline": (False, False, False),
        "clipping": (True, False, False),
        "schedule": (False, True, False),
        "both": (True, True, False),
        "clipping, tuned": (True, False, True),
        "both, tuned": (True, True, True),
    }
)
FOUR = tuple(name for name, (_, _, tuned) in TREATMENTS.items() if not tuned)
RATES = ("tuned", "common", "untuned")
UNFINISHED = "unfinished"  # folder for the stores of running sweeps

_SMOOTHING = 0.05  # fraction of the steps over which minibatch losses are averaged
_MAX_RECORDED = 250  # recorded steps per run
_MAX_SHOWN = 50  # steps in the curves of the explorer
_DIGITS = 12  # digits of the fingerprint in folder names
_TIE = 1e-6  # decades; tolerance for rounding in distances between rates
_LONG = 10.0  # seconds; longer sweeps show a progress bar
# Saved datasets are invalidated if this file changes.
_VERSION = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


def observe(
    plan: Plan,
    folder: Path | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> xr.Dataset:
    """Trains all runs of a plan and keeps the learning curves of selected runs.

    If a folder is given, a finished dataset is loaded from its file unless something
    that affects the results has changed, and an interrupted sweep resumes.

    Returns:
      A dataset with the following variables:

      - With the dimensions of the sweep (`threshold`, `scheduled`, `peak_value` and
        `seed`): `final_loss` (on all training data or on fresh data, if available),
        `status`, `steps_to_target` (the step from which the loss stays at or below the
        target, or inf), and the entries of the problem's `evaluate`.
      - With the dimensions `treatment`, `rate`, `seed` and `step`: `loss`, `grad_norm`
        (gradient norm) and `update_norm` (norm of the optimizer's input). The values
        are inf after divergence.
      - `chosen_threshold`, `chosen_scheduled` and `chosen_rate`: the hyperparameters of
        these curves.
      - `median_loss`: the median over the seeds at a few steps (`shown_step`).
    """
    return observed(prepare(plan, folder), log=log)


class Prepared(NamedTuple):
    """A plan and its sweep, before it is trained."""

    plan: Plan
    train: Callable[..., xr.Dataset]
    folder: Path | None
    expected: str  # the fingerprint of its dataset, if there is a folder

    @property
    def path(self) -> Path | None:
        """The file of its dataset."""
        return self.folder and self.folder / f"{self.plan.file}.nc"

    @property
    def store(self) -> Path | None:
        """The store of its sweep, until the dataset is complete."""
        name = f"{self.plan.file}-{self.expected[:_DIGITS]}"
        return self.folder and self.folder / UNFINISHED / name


def prepare(plan: Plan, folder: Path | None) -> Prepared:
    """Traces the program of a plan without training."""
    steps = plan.sizes.steps or 1
    what = (plan.problem, make_optimizer_from(plan.methods, steps), _space(plan))
    every = _record_every(steps)
    train = partial(sweep, *what, steps=steps, record_every=every)
    if folder is None:
        return Prepared(plan, train, None, "")
    program = fingerprint(*what, steps=steps, record_every=every)
    parts = (program, _VERSION, stabjax.__version__, _attrs(plan))
    expected = hashlib.sha256(repr(parts).encode()).hexdigest()
    return Prepared(plan, train, folder, expected)


def forecast(prepared: Prepared) -> float:
    """Trains one chunk, and returns the expected seconds for the remaining chunks.

    The compiled program is cached for `observed`.
    """
    if prepared.path and _kept(prepared.path, prepared.expected) is not None:
        return 0.0
    cost = prepared.train(dry_run=True, store=prepared.store).attrs
    return float(cost["expected_seconds"])


def observed(
    prepared: Prepared,
    seconds: float = 0.0,
    log: Callable[[str], None] = lambda line: None,
) -> xr.Dataset:
    """Returns the result of `observe`, with a progress bar if it takes a while."""
    plan, path, store = prepared.plan, prepared.path, prepared.store
    train = partial(prepared.train, progress=seconds > _LONG)
    if path is None or store is None:
        return _observed(train(), plan)
    kept = _kept(path, prepared.expected)
    if kept is not None:
        log(f"      read from {path}")
        return kept
    runs = _observed(train(store=store), plan)
    runs.attrs["fingerprint"] = prepared.expected
    # Renaming is atomic, so an interruption cannot leave a truncated dataset.
    partial_path = path.with_suffix(".partial")
    runs.to_netcdf(partial_path, engine="scipy")
    partial_path.replace(path)
    # Also removes stores that are outdated because the program has changed.
    for finished in store.parent.glob(f"{plan.file}-{'?' * _DIGITS}"):
        shutil.rmtree(finished)
    return runs


def _kept(path: Path, expected: str) -> xr.Dataset | None:
    """Returns a saved dataset, or None if it is missing or outdated."""
    try:
        runs = xr.load_dataset(path, engine="scipy")
    except Exception:  # the file is missing or damaged
        return None
    return runs if runs.attrs.get("fingerprint") == expected else None


def _space(plan: Plan) -> Space:
    thresholds = _spread(plan.methods.threshold_range, plan.sizes.thresholds or 1)
    # An infinite threshold disables clipping and 0.0 disables the schedule. Both are
    # numbers, so the baseline and all treatments share one compilation.
    return grid(
        threshold=[*thresholds, np.inf],
        scheduled=[0.0, 1.0],
        peak_value=_spread(plan.methods.rate_range, plan.sizes.rates or 1),
        seed=range(plan.sizes.seeds or 1),
    )


def _observed(runs: xr.Dataset, plan: Plan) -> xr.Dataset:
    """Adds the variables needed for the report to the runs of a plan."""
    loss, stable = runs["loss"], runs["status"] == 0
    better = [name for name in ("train_loss", "test_loss") if name in runs]
    if better:  # the final loss is computed on one minibatch
        runs["final_loss"] = runs[better[0]].where(stable, np.inf)
        loss = smoothed(loss)
    runs["steps_to_target"] = steps_to(
        loss, float(plan.problem.metadata["target_loss"])
    )
    middle = float(runs.threshold[(runs.sizes["threshold"] - 1) // 2])
    runs.attrs |= {**_attrs(plan), "threshold": middle}
    return _labelled(_with_chosen_curves(runs), plan.methods.clipping.number)


def _attrs(plan: Plan) -> dict[str, str | float]:
    """Returns the dataset attributes that do not depend on the program."""
    clipping, schedule, optimizer = plan.methods.names
    return {
        "problem": plan.name,
        "label": plan.label,
        "methods": plan.requested,
        "clipping": clipping,
        "schedule": schedule,
        "optimizer": optimizer,
        "target_loss": float(plan.problem.metadata["target_loss"]),
        "threshold_is_norm": int(plan.methods.clipping.range is None),
    }


def steps_to(loss: xr.DataArray, target: float) -> xr.DataArray:
    """Returns the recorded step from which the loss stays at or below the target."""
    above = (loss > target).transpose(..., "step").to_numpy()
    size = above.shape[-1]
    last = np.where(above.any(-1), size - 1 - np.argmax(above[..., ::-1], axis=-1), -1)
    steps = np.append(loss["step"].to_numpy().astype(np.float32), np.inf)
    return xr.zeros_like(loss.isel(step=0, drop=True)).copy(data=steps[last + 1])


def smoothed(loss: xr.DataArray) -> xr.DataArray:
    """Returns the trailing mean over 5% of the recorded losses."""
    width = max(round(_SMOOTHING * loss.sizes["step"]), 1)
    mean: xr.DataArray = loss.rolling(step=width, min_periods=1).mean()
    # Restores +inf after divergence, because a running sum turns inf into NaN.
    return mean.where(np.isfinite(loss), np.inf)


def choose(runs: xr.Dataset) -> xr.Dataset:
    """Chooses a threshold and three learning rates for each treatment.

    The fixed threshold is the middle one of the sweep. The tuned rate, or the tuned
    pair of threshold and rate, has the smallest median final loss. Losses far below the
    target count as equal. Ties are resolved by the smallest median number of steps to
    the target, and then by the smallest threshold. The untuned rate is the rate closest
    to ten times the best one for the baseline. If two rates tie, it is the larger one.
    """
    middle = float(runs.attrs["threshold"])
    finite = runs.threshold.to_numpy()[np.isfinite(runs.threshold)]
    thresholds, rates = [], []
    for clipped, scheduled, tuned in TREATMENTS.values():
        allowed = finite if tuned else [middle if clipped else np.inf]
        some = runs.sel(threshold=allowed, scheduled=float(scheduled))
        threshold, rate = _best(some)
        thresholds.append(threshold)
        rates.append(rate)
    values = runs.peak_value.to_numpy()
    off = np.abs(np.log10(values / (UNTUNED_FACTOR * rates[0])))
    untuned = values[off <= off.min() + _TIE].max()
    chosen = [[rate, rates[0], untuned] for rate in rates]
    return xr.Dataset(
        {
            "chosen_threshold": ("treatment", thresholds),
            "chosen_scheduled": (
                "treatment",
                [float(s) for _, s, _ in TREATMENTS.values()],
            ),
            "chosen_rate": (("treatment", "rate"), chosen),
        },
        {"treatment": list(TREATMENTS), "rate": list(RATES)},
    )


def _best(runs: xr.Dataset) -> tuple[float, float]:
    losses = runs.final_loss.transpose("threshold", "peak_value", "seed").to_numpy()
    steps = runs.steps_to_target.transpose("threshold", "peak_value", "seed").to_numpy()
    floor = SOLVED * runs.attrs["target_loss"]
    loss = np.maximum(np.median(losses, axis=-1), floor)
    # The last key is the primary one. lexsort is stable, so ties are resolved in favor
    # of the smallest threshold and rate.
    order = np.lexsort((np.median(steps, axis=-1).ravel(), loss.ravel()))
    row, column = np.unravel_index(order[0], loss.shape)
    return float(runs.threshold[row]), float(runs.peak_value[column])


def _with_chosen_curves(runs: xr.Dataset) -> xr.Dataset:
    """Replaces the learning curves of all runs by those of the chosen runs."""
    chosen = choose(runs)
    names = {
        "loss": "loss",
        "clip_grad_norm": "grad_norm",
        "clip_update_norm": "update_norm",
    }
    curves = runs[list(names)].rename(names)
    curves = curves.sel(
        threshold=chosen.chosen_threshold,
        scheduled=chosen.chosen_scheduled,
        peak_value=chosen.chosen_rate,
    ).drop_vars(["threshold", "scheduled", "peak_value"])
    alive = np.isfinite(curves["loss"])
    curves = curves.where(alive, np.inf).transpose("treatment", "rate", "seed", "step")
    shown = runs["loss"].isel(
        step=slice(None, None, -(-runs.sizes["step"] // _MAX_SHOWN))
    )
    shown = shown.reduce(np.median, "seed").rename(step="shown_step")
    recorded = [
        name for name, values in runs.data_vars.items() if "step" in values.dims
    ]
    kept = runs.drop_vars([*recorded, "step"])
    kept["median_loss"] = shown
    return kept.merge(chosen).merge(curves).assign_attrs(runs.attrs)


def _spread(ends: tuple[float, float], count: int) -> np.ndarray:
    """Returns logarithmically spaced numbers, or the midpoint if `count` is 1."""
    low, high = ends
    if count == 1:
        return np.array([np.sqrt(low * high)])
    return np.geomspace(low, high, count)


def _record_every(steps: int) -> int:
    """Returns an odd recording interval, which captures period-2 oscillations."""
    least = -(-steps // _MAX_RECORDED)
    return min(least + (least % 2 == 0), steps)


def _labelled(runs: xr.Dataset, number: str) -> xr.Dataset:
    names = {
        "peak_value": "peak learning rate",
        "threshold": "clipping threshold"
        if "norm" in number
        else f"threshold, {number}",
        "final_loss": "final loss",
        "steps_to_target": "steps to the target loss",
        "grad_norm": "norm of the gradient",
        "update_norm": "norm of the optimizer's input",
    }
    for name, text in names.items():
        runs[name].attrs["long_name"] = text
    return runs
