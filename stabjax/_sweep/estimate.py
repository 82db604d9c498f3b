"""What a sweep will cost: a chunk of each program is trained, and nothing is kept."""

import math
import time
from typing import Any

import jax
import numpy as np
import xarray as xr

from stabjax._sweep.chunks import Chunk
from stabjax._sweep.dataset import labelled, unfilled
from stabjax._sweep.devices import IN_FLIGHT, Batches
from stabjax._sweep.job import Job, Place
from stabjax._sweep.store import holds


def estimated(job: Job, where: Place) -> xr.Dataset:
    """The dataset of the sweep as it is before a trial has run, with what to expect."""
    size = len(job.spec.layout.space)
    variables = [group.variables for group in job.spec.groups]
    results = unfilled(variables, size, _without_memory)
    running = compiling = 0.0
    memory = 0
    for number, group in enumerate(job.spec.groups):
        chunks = [c for c in job.chunks if c.group == number and _is_due(c, where)]
        if not chunks:
            continue
        devices = where.devices[: len(chunks)]
        start = time.perf_counter()
        program = job.programs[number].compiled(group, devices)
        compiled = time.perf_counter()
        batches = Batches(program, len(devices), group, job.given)
        jax.block_until_ready(batches.start(chunks[: len(devices)]))
        batch = time.perf_counter() - compiled
        compiling += compiled - start
        running += batch * math.ceil(len(chunks) / len(devices))
        memory = max(memory, len(devices) * _bytes(program))
    expected = {
        "expected_compile_seconds": round(job.trace_seconds + compiling, 3),
        "expected_seconds": round(running, 6),
        "expected_device_bytes": memory,
        "expected_result_bytes": sum(values.nbytes for values in results.values()),
    }
    return labelled(job.spec, results, expected)


def _is_due(chunk: Chunk, where: Place) -> bool:
    """Whether this process would have to run the chunk."""
    part, parts = where.part
    mine = chunk.number % parts == part
    return mine and not (where.store and holds(where.store, chunk))


def _bytes(program: jax.stages.Compiled) -> int:
    """The memory of what runs and what waits on a device; 0 where XLA does not say."""
    found: Any = program.memory_analysis()
    if found is None:
        return 0
    waiting = found.argument_size_in_bytes + found.output_size_in_bytes
    return int(found.temp_size_in_bytes + (IN_FLIGHT + 1) * waiting)


def _without_memory(
    shape: tuple[int, ...], value: float, dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    """An array of one value, which only looks as large as its shape."""
    return np.broadcast_to(np.asarray(value, dtype), shape)
