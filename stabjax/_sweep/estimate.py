"""Cost estimates for a sweep, measured on one chunk of some of its programs."""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from stabjax._sweep.dataset import labelled, unfilled
from stabjax._sweep.devices import device_bytes, start
from stabjax._sweep.place import Place
from stabjax._sweep.plan import Chunk, Plan
from stabjax._sweep.program import Program

_SAMPLED = 4  # maximum number of programs to measure


class _Cost(NamedTuple):
    compiling: float = 0.0  # seconds
    running: float = 0.0  # seconds for a trial on a device
    memory: int = 0  # bytes on all devices


def estimated(
    plan: Plan, programs: Sequence[Program], place: Place, traced: float
) -> xr.Dataset:
    """Returns an empty dataset with the estimated cost in its attributes.

    If there are many programs, only a few of them are compiled, and their mean cost is
    used for the others.
    """
    results = unfilled(plan, _without_memory)
    due: dict[int, list[Chunk]] = {}
    for chunk in plan.chunks():
        if _is_due(chunk, place):
            due.setdefault(chunk.group, []).append(chunk)
    every = max(1, math.ceil(len(due) / _SAMPLED))
    costs = {n: _cost(plan, programs[n], due[n], place) for n in [*due][::every]}
    mean = _Cost(*np.mean([*costs.values()], axis=0)) if costs else _Cost()
    running = 0.0
    for number, chunks in due.items():
        batches = math.ceil(len(chunks) / min(len(place.devices), len(chunks)))
        trials = batches * plan.groups[number].width
        running += trials * costs.get(number, mean).running
    expected = {
        "expected_compile_seconds": round(traced + mean.compiling * len(due), 3),
        "expected_seconds": round(running, 6),
        "expected_device_bytes": max(
            (cost.memory for cost in costs.values()), default=0
        ),
        "expected_host_bytes": plan.host_bytes,
        "expected_result_bytes": sum(values.nbytes for values in results.values()),
        "compiled_programs": len(costs),
    }
    return labelled(plan, results, expected)


def _cost(plan: Plan, program: Program, due: Sequence[Chunk], place: Place) -> _Cost:
    group, devices = plan.groups[due[0].group], place.devices[: len(due)]
    begin = time.perf_counter()
    compiled = program.compiled(*group.chunk, devices)
    running = time.perf_counter()
    batch = due[: len(devices)]
    started = start(compiled, len(devices), batch, [*map(plan.inputs, batch)])
    jax.block_until_ready(started)
    return _Cost(
        running - begin,
        (time.perf_counter() - running) / group.width,
        len(devices) * device_bytes(compiled),
    )


def _is_due(chunk: Chunk, place: Place) -> bool:
    """Returns whether this process would run the chunk."""
    part, parts = place.part
    mine = chunk.number % parts == part
    return mine and not (place.store and place.store.holds(chunk))


def _without_memory(
    shape: tuple[int, ...], value: float, dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    """Returns a constant array that does not allocate memory for its shape."""
    return np.broadcast_to(np.asarray(value, dtype), shape)
