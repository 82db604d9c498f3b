"""The founding experiment: neither, clipping, a schedule and both, as one sweep."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import xarray as xr

from stabjax import problems
from stabjax._clipping import clip_by_global_norm
from stabjax._metrics import with_metrics
from stabjax._schedules import warmup_cosine_decay_schedule
from stabjax._sweep import grid, sweep
from stabjax.problems import Problem

PROBLEMS: Mapping[str, Callable[[], Problem]] = MappingProxyType(
    {
        "quadratic": problems.quadratic,
        "noisy_quadratic": partial(problems.quadratic, noise=1.0),
        "ill_conditioned_quadratic": problems.ill_conditioned_quadratic,
        "rosenbrock": problems.rosenbrock,
        "cliff": problems.cliff,
        "deep_linear_chain": problems.deep_linear_chain,
        "digits_mlp": problems.digits_mlp,
    }
)
QUICK = ("quadratic", "noisy_quadratic")

WARMUP_SHARE = 0.1  # of the steps
DECADES_UNTUNED = 1  # how far off the rate of someone who does not tune
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

_LEAST_STEPS = 10  # with a warm-up, and a last tenth
_RECORDED = 250  # steps of a training, at most
_SHOWN = 50  # of them in the curves of all cells, at most
_SECONDS = (3.0, 1.2e-8)  # to compile and draw a problem; an update of a parameter

_Array = np.ndarray[Any, Any]


class Sizes(NamedTuple):
    """How many trainings of one problem, and how long; None means the default."""

    rates: int | None = None
    thresholds: int | None = None  # the switched-off one comes on top
    seeds: int | None = None
    steps: int | None = None

    def filled(self, default: "Sizes") -> "Sizes":
        """These numbers, and the default ones where there are none."""
        pairs = zip(self, default, strict=True)
        return Sizes(*(given if given is not None else other for given, other in pairs))

    @property
    def trainings(self) -> int:
        """The number of trainings, two for each threshold: constant and scheduled."""
        return (self.rates or 1) * ((self.thresholds or 1) + 1) * 2 * (self.seeds or 1)


_FULL = Sizes(rates=33, thresholds=13, seeds=32)
_QUICK = Sizes(rates=17, thresholds=7, seeds=16)
_NETWORK = Sizes(rates=13, thresholds=5, seeds=8)  # a thousand times the cost


class Plan(NamedTuple):
    """A problem of the study and the sizes of its sweep."""

    name: str
    problem: Problem
    sizes: Sizes

    @property
    def seconds(self) -> float:
        """About how long it takes on two cores."""
        shapes = jax.eval_shape(self.problem.init, jax.random.key(0))
        parameters = sum(int(leaf.size) for leaf in jax.tree.leaves(shapes))
        fixed, each = _SECONDS
        updates = self.sizes.trainings * (self.sizes.steps or 1)
        return fixed + each * updates * max(parameters, 4)


def plan(name: str, sizes: Sizes, *, quick: bool = False) -> Plan:
    """Fills in the sizes that are not given.

    Raises:
      ValueError: if the problem is unknown, or a size is too small.
    """
    if name not in PROBLEMS:
        raise ValueError(f"unknown problem {name!r}; known are {', '.join(PROBLEMS)}")
    for field, value in sizes._asdict().items():
        least = _LEAST_STEPS if field == "steps" else 1
        if value is not None and value < least:
            raise ValueError(f"{field} must be at least {least}, got {value}")
    problem = PROBLEMS[name]()
    network = name == "digits_mlp"
    default = _NETWORK if network else _QUICK if quick else _FULL
    default = default._replace(steps=problem.facts["steps"])
    return Plan(name, problem, sizes.filled(default))


def observe(plan: Plan) -> xr.Dataset:
    """Trains everything of a problem, and keeps the curves of the chosen runs.

    Returns:
      A dataset.

      - Over `max_norm`, `scheduled`, `peak_value` and `seed`, the dimensions of the
        sweep: `final_loss` (on all training data if the problem has some), `status`,
        `steps_to_target` (after which the loss stays there; inf if it does not), and
        what the problem's `evaluate` gave.
      - Over `remedy`, `rate`, `seed` and `step`: `loss`, `grad_norm` (of the gradient)
        and `update_norm` (of what the optimizer got), inf once a run has diverged.
      - `chosen_max_norm`, `chosen_scheduled` and `chosen_rate`: which runs those are.
      - `median_loss`, of the seeds at a few steps: over the dimensions of the sweep but
        for `seed`, and over `shown_step`.
    """
    facts, sizes = plan.problem.facts, plan.sizes
    steps = sizes.steps or 1
    space = grid(
        max_norm=[*_spread(facts["max_norm"], sizes.thresholds or 1), np.inf],
        scheduled=[0.0, 1.0],
        peak_value=_spread(facts["peak_value"], sizes.rates or 1),
        seed=range(sizes.seeds or 1),
    )
    runs = sweep(
        plan.problem,
        optimizer_of(steps),
        space,
        steps=steps,
        record_every=_record_every(steps),
        progress=False,
    )
    if "train_loss" in runs:  # the final loss is that of a single minibatch
        held = runs["status"] == 0
        runs["final_loss"] = runs["train_loss"].where(held, np.inf)
    runs["steps_to_target"] = steps_to(runs["loss"], facts["target_loss"])
    runs.attrs |= {
        "problem": plan.name,
        "target_loss": float(facts["target_loss"]),
        "max_norm": float(runs.max_norm[(runs.sizes["max_norm"] - 1) // 2]),
        "warmup_steps": warmup_steps(steps),
    }
    return _labelled(_with_chosen_curves(runs))


def optimizer_of(steps: int) -> Callable[..., optax.GradientTransformation]:
    """SGD whose remedies are numbers: a threshold of inf, a flat schedule."""
    warmup = warmup_steps(steps)

    def make_optimizer(
        max_norm: jax.Array, scheduled: jax.Array, peak_value: jax.Array
    ) -> optax.GradientTransformation:
        schedule = warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=peak_value,
            warmup_steps=scheduled * warmup,
            decay_steps=steps,
            end_value=(1 - scheduled) * peak_value,
        )
        clip = with_metrics(clip_by_global_norm(max_norm), name="clip")
        return optax.chain(clip, optax.sgd(schedule))

    return make_optimizer


def warmup_steps(steps: int) -> int:
    """How long the schedule warms up."""
    return round(WARMUP_SHARE * steps)


def steps_to(loss: xr.DataArray, target: float) -> xr.DataArray:
    """The first recorded step from which on no loss is above the target, or inf."""
    above = (loss > target).transpose(..., "step").to_numpy()
    size = above.shape[-1]
    last = np.where(above.any(-1), size - 1 - np.argmax(above[..., ::-1], axis=-1), -1)
    steps = np.append(loss["step"].to_numpy().astype(np.float32), np.inf)
    return xr.zeros_like(loss.isel(step=0, drop=True)).copy(data=steps[last + 1])


def choose(runs: xr.Dataset) -> xr.Dataset:
    """Which threshold and which rates stand for each remedy.

    The fixed threshold is the middle one. A tuned rate, or pair of threshold and rate,
    has the smallest median final loss (losses far below the target are equal), and
    among equals the fewest median steps to the target.
    """
    middle = float(runs.attrs["max_norm"])
    finite = runs.max_norm.to_numpy()[np.isfinite(runs.max_norm)]
    thresholds, rates = [], []
    for clipped, scheduled, tuned in REMEDIES.values():
        allowed = finite if tuned else [middle if clipped else np.inf]
        some = runs.sel(max_norm=allowed, scheduled=float(scheduled))
        threshold, rate = _best(some)
        thresholds.append(threshold)
        rates.append(rate)
    values = runs.peak_value.to_numpy()
    untuned = values[np.argmin(np.abs(np.log(values / rates[0]) - _FACTOR))]
    chosen = [[rate, rates[0], untuned] for rate in rates]
    return xr.Dataset(
        {
            "chosen_max_norm": ("remedy", thresholds),
            "chosen_scheduled": ("remedy", [float(s) for _, s, _ in REMEDIES.values()]),
            "chosen_rate": (("remedy", "rate"), chosen),
        },
        {"remedy": list(REMEDIES), "rate": list(RATES)},
    )


_FACTOR = DECADES_UNTUNED * np.log(10)


def _best(runs: xr.Dataset) -> tuple[float, float]:
    losses = runs.final_loss.transpose("max_norm", "peak_value", "seed").to_numpy()
    steps = runs.steps_to_target.transpose("max_norm", "peak_value", "seed").to_numpy()
    floor = SOLVED * runs.attrs["target_loss"]
    loss = np.maximum(np.median(losses, axis=-1), floor)
    order = np.lexsort((np.median(steps, axis=-1).ravel(), loss.ravel()))
    row, column = np.unravel_index(order[0], loss.shape)
    return float(runs.max_norm[row]), float(runs.peak_value[column])


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
        max_norm=chosen.chosen_max_norm,
        scheduled=chosen.chosen_scheduled,
        peak_value=chosen.chosen_rate,
    ).drop_vars(["max_norm", "scheduled", "peak_value"])
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


def _labelled(runs: xr.Dataset) -> xr.Dataset:
    names = {
        "peak_value": "peak learning rate",
        "max_norm": "clipping threshold",
        "final_loss": "final loss",
        "steps_to_target": "steps to the target loss",
        "grad_norm": "norm of the gradient",
        "update_norm": "norm of what the optimizer got",
    }
    for name, text in names.items():
        runs[name].attrs["long_name"] = text
    return runs
