"""JAX and XLA options for vectorized small runs, and the choice of the chunk width."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.extend.core
import numpy as np

# Number of values per parameter that are live during a step. On CPU they should fit
# into part of a core's L2 cache. The fastest widths measured are 4096 trials with 2
# parameters, 1024 with 10, 128 with 100 and 32 with 2410. On an H200, 16384 networks
# of 2410 parameters are 1.5 times as fast as 1024. Convolutional networks are fastest
# at 1024, which is a quarter of its memory as `memory_of` counts it.
_ARRAYS_PER_PARAMETER = 5
_CPU_BYTES, _DEVICE_BYTES = 2**18, 2**31
_CPU_WIDTHS, _DEVICE_WIDTHS = (32, 4096), (1024, 65536)
# Widths of lanes. Blocks fit in a cache or in registers regardless of the width, so it
# only has to be large enough to hide the time between two chunks.
_CPU_LANES, _DEVICE_LANES, _FEW_LANES = 2**14, 2**20, 2**10

# JAX settings that change the compiled program.
_CONFIG = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_threefry_partitionable",
)


def jax_config() -> dict[str, Any]:
    """Returns the JAX settings that change the compiled program."""
    return {name: getattr(jax.config, name) for name in _CONFIG}


def no_mesh() -> Any:
    """Returns a context manager that hides the mesh set by `jax.set_mesh`.

    Under an explicit mesh, the type of every new array contains the mesh, and JAX 0.10
    to 0.12 cannot compile such a program for a single device or for another mesh.
    """
    return jax.set_mesh(jax.sharding.Mesh(np.empty((), object), ()))


@contextlib.contextmanager
def configured(config: Mapping[str, Any]) -> Iterator[None]:
    """Applies the JAX settings of the thread that called the sweep."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(no_mesh())
        for name, value in config.items():
            stack.enter_context(getattr(jax, name.removeprefix("jax_"))(value))
        yield


def auto_width(parameters: int, device: jax.Device, memory: int = 0) -> int:
    """Returns the chunk width for a device, which is a power of two.

    The width is inversely proportional to the number of parameters. It is limited so
    that trials of `memory` bytes each fit into a quarter of the device's memory, or
    into one gigabyte on CPU.
    """
    on_cpu = device.platform == "cpu"
    low, high = _CPU_WIDTHS if on_cpu else _DEVICE_WIDTHS
    room = (_CPU_BYTES if on_cpu else _DEVICE_BYTES) // (4 * _ARRAYS_PER_PARAMETER)
    fits = int(np.clip(room // max(1, parameters), low, high))
    known = (device.memory_stats() or {}).get("bytes_limit", 2**32) // 4
    fits = max(1, min(fits, known // max(1, memory)))
    return int(2 ** (fits.bit_length() - 1))


def lanes_width(trials: int, device: jax.Device, devices: int) -> int:
    """Returns the chunk width for lanes, in even parts for all devices."""
    limit = _CPU_LANES if device.platform == "cpu" else _DEVICE_LANES
    parts = max(math.ceil(trials / limit), min(devices, math.ceil(trials / _FEW_LANES)))
    return math.ceil(trials / parts)


def memory_of(jaxpr: jax.extend.core.Jaxpr) -> int:
    """Returns the total size of all values in a jaxpr, counting loop bodies once."""
    total = 0
    for equation in jaxpr.eqns:
        avals: list[Any] = [variable.aval for variable in equation.outvars]
        total += sum(aval.size * aval.dtype.itemsize for aval in avals)
        parts = jax.tree.leaves([*equation.params.values()], is_leaf=_is_program)
        programs = filter(_is_program, parts)
        total += sum(memory_of(getattr(part, "jaxpr", part)) for part in programs)
    return total


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns")  # a jaxpr, closed or not


def compiled_for(traced: jax.stages.Traced, device: jax.Device) -> jax.stages.Compiled:
    """Compiles a traced program with suitable options for the device."""
    lowered: jax.stages.Lowered = traced.lower()
    if device.platform == "cpu":
        try:
            return lowered.compile(cpu_options(str(traced.jaxpr)))
        except jax.errors.JaxRuntimeError as error:
            if "INVALID_ARGUMENT" not in str(error):  # not an unknown option
                raise
    return lowered.compile()


def cpu_options(program: str) -> dict[str, Any]:
    """Returns the XLA:CPU options for vectorized small runs.

    XLA (jaxlib 0.10 to 0.12) uses the YNNPACK kernel library for a sum over the
    parameters of each trial if the input has at least 4096 elements. This call takes
    longer than the whole fused step: 435 ms instead of 50 ms for 65,536 runs with two
    weights. The library is therefore disabled for programs without matrix products.
    These programs also run 15% faster with 512-bit vectors: 1.97 ms instead of 2.33 ms
    for 4096 runs with two weights over 200 steps. Programs with matrix products need
    the library. A lower optimization level halves their compile time and does not slow
    them down.
    """
    # Wrong values of atan with 512-bit vectors in jaxlib 0.10.2.
    wide = {} if "atan" in program else {"xla_cpu_prefer_vector_width": "512"}
    options = {"xla_cpu_experimental_ynn_fusion_type": "", **wide}
    if "xla_cpu_small_call" in program:  # which cannot contain parallel tasks
        return {**options, "xla_disable_hlo_passes": "cpu-parallel-task-assigner"}
    if "dot_general" in program or "conv_general_dilated" in program:
        return {"xla_backend_optimization_level": 2}
    return options
