"""The founding experiment: neither, clipping, a schedule and both, as one sweep."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

import stabjax
from stabjax._sweep import grid, sweep
from stabjax._sweep.planning import fingerprint
from stabjax._sweep.space import Space
from stabjax.study.methods import optimizer_of
from stabjax.study.plan import Plan

DECADES_UNTUNED = 1  # how far off the rate of someone who does not tune
SMOOTHED_SHARE = 0.05  # of the steps, where a loss is that of a minibatch
SOLVED = 1e-3  # of the target: below that, losses count as equal

# The remedies: name -> (clipped, scheduled, threshold chosen by result).
REMEDIES: Mapping[str, tuple[bool, bool, bool]] = MappingProxyType(
    {
        "neither": (False, False, False),
        "clipping": (True, False, False),
        "schedule": (False, True, False),
        "both": (True, True, False),
        "clipping, tuned": (True, False, True),
        "both, tuned": (True, True, True),
    }
)
FOUR = tuple(name for name, (_, _, tuned) in REMEDIES.items() if not tuned)
RATES = ("tuned", "common", "untuned")

_RECORDED = 250  # steps of a training, at most
_SHOWN = 50  # of them in the curves of all cells, at most
_DIGITS = 12  # of a fingerprint, in the name of a folder
UNFINISHED = "unfinished"  # the folder of what is being trained
_SAME_OFF = 1e-6  # decades: rates as near, but for rounding
_LONG = 10.0  # seconds, from where on a bar shows how far it is
# What this file makes of a sweep belongs to what is kept.
_VERSION = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]

_Array = np.ndarray[Any, Any]


def observe(
    plan: Plan,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> xr.Dataset:
    """Trains everything of a problem, and keeps the curves of the chosen runs.

    With a folder, what is finished is a file there and is read instead, if it is what
    would be trained; and what is not goes on where it was stopped.

    Returns:
      A dataset.

      - Over `threshold`, `scheduled`, `peak_value` and `seed`, the dimensions of the
        sweep: `final_loss` (on all training data, or on fresh ones, if the problem has
        any), `status`, `steps_to_target` (after which the loss stays there; inf if it
        does not), and what the problem's `evaluate` gave.
      - Over `remedy`, `rate`, `seed` and `step`: `loss`, `grad_norm` (of the gradient)
        and `update_norm` (of what the optimizer got), inf once a run has diverged.
      - `chosen_threshold`, `chosen_scheduled` and `chosen_rate`: which runs those are.
      - `median_loss`, of the seeds at a few steps: over the dimensions of the sweep but
        for `seed`, and over `shown_step`.
    """
    steps = plan.sizes.steps or 1
    what = (plan.problem, optimizer_of(plan.methods, steps), _space(plan))
    every, shown = _record_every(steps), plan.seconds > _LONG
    trained = partial(sweep, *what, steps=steps, record_every=every, progress=shown)
    if folder is None:
        return _observed(trained(), plan)
    program = fingerprint(*what, steps=steps, record_every=every)
    parts = (program, _VERSION, stabjax.__version__, _about(plan))
    known = hashlib.sha256(repr(parts).encode()).hexdigest()
    path = folder / f"{plan.file}.nc"
    kept = _kept(path, known)
    if kept is not None:
        say(f"      is in {path} already")
        return kept
    store = folder / UNFINISHED / f"{plan.file}-{known[:_DIGITS]}"
    runs = _observed(trained(store=store), plan)
    runs.attrs["fingerprint"] = known
    partly = path.with_suffix(".partial")
    runs.to_netcdf(partly, engine="scipy")
    partly.replace(path)
    for old in store.parent.glob(f"{plan.file}-{'?' * _DIGITS}"):  # and the store
        shutil.rmtree(old)
    return runs


def _kept(path: Path, known: str) -> xr.Dataset | None:
    """What an earlier call wrote, if that is what would come out again."""
    try:
        runs = xr.load_dataset(path, engine="scipy")
    except Exception:  # none, or damaged in whatever way
        return None
    return runs if runs.attrs.get("fingerprint") == known else None


def _space(plan: Plan) -> Space:
    thresholds = _spread(plan.methods.threshold_range, plan.sizes.thresholds or 1)
    return grid(
        threshold=[*thresholds, np.inf],
        scheduled=[0.0, 1.0],
        peak_value=_spread(plan.methods.rate_range, plan.sizes.rates or 1),
        seed=range(plan.sizes.seeds or 1),
    )


def _observed(runs: xr.Dataset, plan: Plan) -> xr.Dataset:
    """The runs of a plan, with what the report wants to know of them."""
    loss, held = runs["loss"], runs["status"] == 0
    better = [name for name in ("train_loss", "test_loss") if name in runs]
    if better:  # the loss, also the final one, is that of a single minibatch
        runs["final_loss"] = runs[better[0]].where(held, np.inf)
        loss = smoothed(loss)
    runs["steps_to_target"] = steps_to(
        loss, float(plan.problem.metadata["target_loss"])
    )
    middle = float(runs.threshold[(runs.sizes["threshold"] - 1) // 2])
    runs.attrs |= {**_about(plan), "threshold": middle}
    return _labelled(_with_chosen_curves(runs), plan.methods.clipping.number)


def _about(plan: Plan) -> dict[str, str | float]:
    """What a plan says of its runs that their program does not."""
    clipping, schedule, optimizer = plan.methods.names
    return {
        "problem": plan.name,
        "label": plan.label,
        "methods": plan.asked,
        "clipping": clipping,
        "schedule": schedule,
        "optimizer": optimizer,
        "target_loss": float(plan.problem.metadata["target_loss"]),
        "threshold_is_norm": int(plan.methods.clipping.range is None),
    }


def steps_to(loss: xr.DataArray, target: float) -> xr.DataArray:
    """The first recorded step from which on no loss is above the target, or inf."""
    above = (loss > target).transpose(..., "step").to_numpy()
    size = above.shape[-1]
    last = np.where(above.any(-1), size - 1 - np.argmax(above[..., ::-1], axis=-1), -1)
    steps = np.append(loss["step"].to_numpy().astype(np.float32), np.inf)
    return xr.zeros_like(loss.isel(step=0, drop=True)).copy(data=steps[last + 1])


def smoothed(loss: xr.DataArray) -> xr.DataArray:
    """The mean of the recorded losses up to each step, over a twentieth of all."""
    width = max(round(SMOOTHED_SHARE * loss.sizes["step"]), 1)
    mean: xr.DataArray = loss.rolling(step=width, min_periods=1).mean()
    return mean.where(np.isfinite(loss), np.inf)


def choose(runs: xr.Dataset) -> xr.Dataset:
    """Which threshold and which rates stand for each remedy.

    The fixed threshold is the middle one. A tuned rate, or pair of threshold and rate,
    has the smallest median final loss (losses far below the target are equal), and
    among equals the fewest median steps to the target, then the smallest threshold. The
    untuned rate is the nearest to ten times the best for neither; of two, the larger.
    """
    middle = float(runs.attrs["threshold"])
    finite = runs.threshold.to_numpy()[np.isfinite(runs.threshold)]
    thresholds, rates = [], []
    for clipped, scheduled, tuned in REMEDIES.values():
        allowed = finite if tuned else [middle if clipped else np.inf]
        some = runs.sel(threshold=allowed, scheduled=float(scheduled))
        threshold, rate = _best(some)
        thresholds.append(threshold)
        rates.append(rate)
    values = runs.peak_value.to_numpy()
    off = np.abs(np.log10(values / rates[0]) - DECADES_UNTUNED)
    untuned = values[off <= off.min() + _SAME_OFF].max()
    chosen = [[rate, rates[0], untuned] for rate in rates]
    return xr.Dataset(
        {
            "chosen_threshold": ("remedy", thresholds),
            "chosen_scheduled": ("remedy", [float(s) for _, s, _ in REMEDIES.values()]),
            "chosen_rate": (("remedy", "rate"), chosen),
        },
        {"remedy": list(REMEDIES), "rate": list(RATES)},
    )


def _best(runs: xr.Dataset) -> tuple[float, float]:
    losses = runs.final_loss.transpose("threshold", "peak_value", "seed").to_numpy()
    steps = runs.steps_to_target.transpose("threshold", "peak_value", "seed").to_numpy()
    floor = SOLVED * runs.attrs["target_loss"]
    loss = np.maximum(np.median(losses, axis=-1), floor)
    order = np.lexsort((np.median(steps, axis=-1).ravel(), loss.ravel()))
    row, column = np.unravel_index(order[0], loss.shape)
    return float(runs.threshold[row]), float(runs.peak_value[column])


def _with_chosen_curves(runs: xr.Dataset) -> xr.Dataset:
    """Replaces the curves of all runs, which are many, by those of the chosen ones."""
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
    curves = curves.where(alive, np.inf).transpose("remedy", "rate", "seed", "step")
    shown = runs["loss"].isel(step=slice(None, None, -(-runs.sizes["step"] // _SHOWN)))
    shown = shown.reduce(np.median, "seed").rename(step="shown_step")
    recorded = [
        name for name, values in runs.data_vars.items() if "step" in values.dims
    ]
    kept = runs.drop_vars([*recorded, "step"])
    kept["median_loss"] = shown
    return kept.merge(chosen).merge(curves).assign_attrs(runs.attrs)


def _spread(ends: tuple[float, float], count: int) -> _Array:
    """Numbers from end to end, evenly in the logarithm; one alone is the middle."""
    low, high = ends
    if count == 1:
        return np.array([np.sqrt(low * high)])
    return np.geomspace(low, high, count)


def _record_every(steps: int) -> int:
    """Odd, so that an oscillation from step to step shows."""
    least = -(-steps // _RECORDED)
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
        "update_norm": "norm of what the optimizer got",
    }
    for name, text in names.items():
        runs[name].attrs["long_name"] = text
    return runs
