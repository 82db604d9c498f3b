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
from stabjax._sweep.plan import Chunk, Plan, trials_of
from stabjax._sweep.program import Program
from stabjax._sweep.warn import warn

_SAMPLED = 4  # maximum number of programs to measure
_LOOPED = 0.3  # seconds of a loop to measure
# A sweep warns above this ratio to the time of a loop, if it takes longer than this.
_SLOWER, _LONG = 1.2, 1.0


class _Cost(NamedTuple):
    compiling: float = 0.0  # seconds
    running: float = 0.0  # seconds for a trial on a device
    looping: float = 0.0  # seconds for a trial in a Python loop over jitted steps
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
    running, looping = 0.0, 0.0
    for number, chunks in due.items():
        batches = math.ceil(len(chunks) / min(len(place.devices), len(chunks)))
        trials = batches * plan.groups[number].width
        cost = costs.get(number, mean)
        running += trials * cost.running
        looping += trials_of(chunks) * cost.looping
    if running > max(_LONG, _SLOWER * looping):
        warn(
            f"sweep is slower than a Python loop over jitted steps: it takes about "
            f"{running:.3g} s, and the loop {looping:.3g} s. Try another chunk_size."
        )
    expected = {
        "expected_compile_seconds": round(traced + mean.compiling * len(due), 3),
        "expected_seconds": round(running, 6),
        "expected_loop_seconds": round(looping, 6),
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
    ended = time.perf_counter()
    return _Cost(
        running - begin,
        (ended - running) / group.width,
        _loop_seconds(plan, program, due[0]),
        len(devices) * device_bytes(compiled),
    )


def _loop_seconds(plan: Plan, program: Program, chunk: Chunk) -> float:
    """Measures a trial in a Python loop over jitted steps, and its evaluations."""
    shared, lanes = plan.inputs(chunk)
    values = {**shared, **{name: value[0] for name, value in lanes.items()}}
    start, step, evaluate = program.loop()
    state, settings = start(values), plan.settings
    jax.block_until_ready((step(values, state), evaluate(values, state)))

    def seconds(repeats: int) -> float:
        found, begin = state, time.perf_counter()
        for _ in range(repeats):
            found = step(values, found)
        jax.block_until_ready(found)
        return (time.perf_counter() - begin) / repeats

    once = seconds(3)  # several, because the device works asynchronously
    each = seconds(int(np.clip(_LOOPED / once, 1, settings.steps)))
    begin = time.perf_counter()
    jax.block_until_ready(evaluate(values, state))
    evaluations = 1 + settings.steps // (settings.evaluate_every or settings.steps + 1)
    return settings.steps * each + evaluations * (time.perf_counter() - begin)


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
