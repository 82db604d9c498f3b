"""Cost estimates for a sweep, measured on one chunk of each program."""

import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

from stabjax._sweep.dataset import labelled, unfilled
from stabjax._sweep.devices import IN_FLIGHT, start
from stabjax._sweep.place import Place
from stabjax._sweep.plan import Chunk, Plan
from stabjax._sweep.program import Program


def estimated(
    plan: Plan, programs: Sequence[Program], place: Place, traced: float
) -> xr.Dataset:
    """Returns an empty dataset with the estimated cost in its attributes."""
    results = unfilled(plan, _without_memory)
    chunks = [chunk for chunk in plan.chunks() if _is_due(chunk, place)]
    running = compiling = 0.0
    memory = 0
    for number, group in enumerate(plan.groups):
        due = [chunk for chunk in chunks if chunk.group == number]
        if not due:
            continue
        devices = place.devices[: len(due)]
        begin = time.perf_counter()
        program = programs[number].compiled(*group.chunk, devices)
        compiled = time.perf_counter()
        batch = due[: len(devices)]
        inputs = [*map(plan.inputs, batch)]
        jax.block_until_ready(start(program, len(devices), batch, inputs))
        seconds = time.perf_counter() - compiled
        compiling += compiled - begin
        running += seconds * math.ceil(len(due) / len(devices))
        memory = max(memory, len(devices) * _bytes(program))
    expected = {
        "expected_compile_seconds": round(traced + compiling, 3),
        "expected_seconds": round(running, 6),
        "expected_device_bytes": memory,
        "expected_result_bytes": sum(values.nbytes for values in results.values()),
    }
    return labelled(plan, results, expected)


def _is_due(chunk: Chunk, place: Place) -> bool:
    """Returns whether this process would run the chunk."""
    part, parts = place.part
    mine = chunk.number % parts == part
    return mine and not (place.store and place.store.holds(chunk))


def _bytes(program: jax.stages.Compiled) -> int:
    """Returns the memory of all chunks in flight, or 0 if XLA has no estimate."""
    found: Any = program.memory_analysis()
    if found is None:
        return 0
    waiting = found.argument_size_in_bytes + found.output_size_in_bytes
    return int(found.temp_size_in_bytes + (IN_FLIGHT + 1) * waiting)


def _without_memory(
    shape: tuple[int, ...], value: float, dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    """Returns a constant array that does not allocate memory for its shape."""
    return np.broadcast_to(np.asarray(value, dtype), shape)
