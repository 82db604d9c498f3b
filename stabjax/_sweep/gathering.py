"""Assembling chunk results into arrays over all trials."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from stabjax._sweep.axes import OF_WHAT_WAS_TRAINED
from stabjax._sweep.dataset import unfilled
from stabjax._sweep.plan import Chunk, Plan, padded, places
from stabjax._sweep.program import STATE, Inputs

_Array = np.ndarray[Any, Any]
_Variables = dict[str, _Array]
# A function that yields the available results of chunks, in any order.
Source = Callable[
    [Sequence[Chunk], Callable[[Chunk], Inputs]], Iterator[tuple[Chunk, _Variables]]
]
# Group number -> the trials that reached a rung, and their states.
_States = dict[int, tuple[_Array, _Variables]]


def gathered(plan: Plan, source: Source) -> _Variables:
    """Returns the variables of all trials, with status -1 for missing results."""
    if plan.settings.rungs:
        return _climbed(plan, source)
    results = unfilled(plan)
    for chunk, variables in source(plan.chunks(), plan.inputs):
        fill(results, chunk, variables)
    return results


def fill(results: _Variables, chunk: Chunk, variables: _Variables) -> None:
    """Copies the results of a chunk into the arrays over all trials."""
    mine = places(chunk.trials)
    for name, values in variables.items():
        if name in results:
            results[name][mine] = values


def trials_in(plan: Plan, part: tuple[int, int]) -> int:
    """Returns the maximum number of trials to train in a part of the chunks."""
    if rungs := plan.settings.rungs:
        sizes = [_kept(plan, rung) for rung in range(len(rungs))]
        return sum(sizes) * (len(plan.space) // _points(plan))
    mine = [c for c in plan.chunks() if c.number % part[1] == part[0]]
    return sum(len(chunk.trials) for chunk in mine)


def _climbed(plan: Plan, source: Source) -> _Variables:
    """Trains from rung to rung, keeping only the best points at each rung.

    Stops early if results are missing at a rung, because the best points are then
    unknown.
    """
    size, rungs = len(plan.space), plan.settings.rungs
    results = unfilled(plan)
    results["rung_loss"] = np.full((size, len(rungs)), np.nan, np.float32)
    results["trained_steps"] = np.zeros(size, np.int32)
    alive, states, number = np.ones(size, bool), _States(), 0
    sign = -1 if plan.maximizes(str(plan.settings.compared_by)) else 1
    for rung, (first, until) in enumerate(zip((0, *rungs), rungs, strict=False)):
        chunks = plan.chunks_of(alive, number, until)
        number += len(chunks)
        found = list[tuple[Chunk, _Variables]]()
        for chunk, variables in source(chunks, _continued(plan, states, first, until)):
            fill(results, chunk, variables)
            results["trained_steps"][chunk.trials] = until
            found.append((chunk, variables if until < rungs[-1] else {}))
        if (results["trained_steps"][alive] < until).any():
            break
        scores = sign * results[str(plan.settings.compared_by)]
        losses = np.where(alive & (results["status"] == 0), scores, np.inf)
        results["rung_loss"][alive, rung] = sign * losses[alive]
        if until < rungs[-1]:
            alive, states = _survivors(plan, losses, rung + 1), _states(found)
    dropped = results["trained_steps"] < rungs[-1]
    for name in {*results} - {*OF_WHAT_WAS_TRAINED}:
        results[name][dropped | ~alive] = np.nan
    results["final_loss"][results["status"] == 1] = np.inf
    return results


def _continued(
    plan: Plan, states: _States, first: int, until: int
) -> Callable[[Chunk], Inputs]:
    """Returns a function that adds the saved states to the inputs of a chunk."""

    def inputs(chunk: Chunk) -> Inputs:
        shared, lanes = plan.inputs(chunk)
        group = plan.groups[chunk.group]
        for name, leaf in group.variables.items():
            if not name.startswith(STATE):
                continue
            if first == 0:  # unused, because the program initializes the runs
                lanes[name] = np.zeros((group.width, *leaf.shape), leaf.dtype)
                continue
            known, values = states[chunk.group]
            rows = np.searchsorted(known, padded(chunk.trials, group.width))
            lanes[name] = values[name][rows].astype(leaf.dtype)
        return {**shared, "first": np.int32(first), "until": np.int32(until)}, lanes

    return inputs


def _states(found: Sequence[tuple[Chunk, _Variables]]) -> _States:
    """Collects the states from the results of a rung."""
    states = _States()
    for group in {chunk.group for chunk, _ in found}:
        mine = [(chunk, values) for chunk, values in found if chunk.group == group]
        trials = np.concatenate([chunk.trials for chunk, _ in mine])
        order = np.argsort(trials)
        names = [name for name in mine[0][1] if name.startswith(STATE)]
        states[group] = (
            trials[order],
            {n: np.concatenate([v[n] for _, v in mine])[order] for n in names},
        )
    return states


def _seed_axis(plan: Plan) -> tuple[int, ...]:
    names = [dimension.name for dimension in plan.space.dimensions]
    return (names.index("seed"),) if "seed" in names else ()


def _points(plan: Plan) -> int:
    seeds = [plan.space.shape[axis] for axis in _seed_axis(plan)]
    return len(plan.space) // math.prod(seeds)


def _kept(plan: Plan, rung: int) -> int:
    """Returns the maximum number of points that reach a rung, counted from 0."""
    return math.ceil(_points(plan) / (plan.settings.eta or 1.0) ** rung)


def _survivors(plan: Plan, losses: _Array, rung: int) -> _Array:
    """Returns a mask of the trials whose points have the best mean over the seeds."""
    shape = plan.space.shape
    scores = losses.reshape(shape).mean(axis=_seed_axis(plan), keepdims=True)
    order = np.argsort(scores, axis=None, kind="stable")
    kept = np.zeros(scores.size, bool)
    kept[order[: _kept(plan, rung)]] = True
    alive = kept.reshape(scores.shape) & np.isfinite(scores)
    return np.broadcast_to(alive, shape).ravel()
