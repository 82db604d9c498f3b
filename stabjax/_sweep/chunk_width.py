"""Chunk widths that suit a program and a device."""

import math
from typing import Any

import jax
import jax.extend.core
import numpy as np

from stabjax._sweep.compiler import is_program

# Number of values per parameter that are live during a step. On CPU they should fit
# into part of a core's L2 cache. The fastest widths measured are 4096 trials with 2
# parameters, 1024 with 10, 128 with 100 and 32 with 2410. On an H200, 16384 networks
# of 2410 parameters are 1.5 times as fast as 1024. Convolutional networks are fastest
# at 1024, which is a quarter of its memory as `memory_of` counts it.
_ARRAYS_PER_PARAMETER = 5
_CPU_BYTES, _DEVICE_BYTES = 2**18, 2**31
# Limit on the memory of a chunk on CPU as `memory_of` counts it. For a network with
# convolutions to 16 and 32 channels (22 MB), 4 trials take 1.04 ms of CPU time per
# trial and step, and 32 take 1.36 ms. Other convolutional and recurrent networks of 18
# to 24 MB are 18% to 31% faster with 4 than with 32. Fewer than 4 are not faster.
_CPU_MEMORY, _CPU_LEAST = 2**27, 4
_CPU_WIDTHS, _DEVICE_WIDTHS = (32, 4096), (1024, 65536)
# Widths of lanes. Blocks fit in a cache or in registers regardless of the width, so it
# only has to be large enough to hide the time between two chunks. With several chunks,
# the host prepares and copies some of them while the device trains another. On two
# cores, 1,048,576 runs of 1,000 steps with two weights take 488 ms in chunks of 16,384,
# 431 ms in chunks of 65,536 and 422 ms in chunks of 131,072. Chunks of long runs are
# narrower on CPU, so that less is lost in an interruption.
_CPU_LANES, _DEVICE_LANES, _FEW_LANES = (2**14, 2**16), 2**18, 2**10
_CPU_STEPS = 2**27  # steps of all runs in a chunk


def auto_width(parameters: int, device: jax.Device, memory: int = 0) -> int:
    """Returns the chunk width for a device, which is a power of two.

    The width is inversely proportional to the number of parameters. Trials of `memory`
    bytes each must fit into a quarter of the device's memory. On CPU they must fit into
    one gigabyte, and more than 4 of them into 128 MiB.
    """
    on_cpu = device.platform == "cpu"
    low, high = _CPU_WIDTHS if on_cpu else _DEVICE_WIDTHS
    room = (_CPU_BYTES if on_cpu else _DEVICE_BYTES) // (4 * _ARRAYS_PER_PARAMETER)
    fits = int(np.clip(room // max(1, parameters), low, high))
    known = (device.memory_stats() or {}).get("bytes_limit", 2**32) // 4
    fits = max(1, min(fits, known // max(1, memory)))
    if on_cpu:
        fits = min(fits, max(_CPU_LEAST, _CPU_MEMORY // max(1, memory)))
    return int(2 ** (fits.bit_length() - 1))


def lanes_width(trials: int, steps: int, device: jax.Device, devices: int) -> int:
    """Returns the chunk width for lanes, in even parts for all devices."""
    limit = _DEVICE_LANES
    if device.platform == "cpu":
        limit = int(np.clip(_CPU_STEPS // steps, *_CPU_LANES))
    parts = max(math.ceil(trials / limit), min(devices, math.ceil(trials / _FEW_LANES)))
    return math.ceil(trials / parts)


def memory_of(jaxpr: jax.extend.core.Jaxpr) -> int:
    """Returns the total size of all values in a jaxpr, counting loop bodies once."""
    total = 0
    for equation in jaxpr.eqns:
        avals: list[Any] = [variable.aval for variable in equation.outvars]
        total += sum(aval.size * aval.dtype.itemsize for aval in avals)
        parts = jax.tree.leaves([*equation.params.values()], is_leaf=is_program)
        programs = filter(is_program, parts)
        total += sum(memory_of(getattr(part, "jaxpr", part)) for part in programs)
    return total
