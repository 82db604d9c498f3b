"""What XLA is asked for: options for many small runs, and how many fit at once."""

from typing import Any

import jax
import jax.extend.core
import numpy as np

# Arrays of a parameter's size that a step keeps warm, and the memory they may take:
# on CPU a share of a core's second-level cache (measured: 4096 trials of 2 parameters,
# 1024 of 10, 128 of 100, 32 of 2410), elsewhere a guess at what fills the device.
_ARRAYS_PER_PARAMETER = 5
_CPU_BYTES, _DEVICE_BYTES = 2**18, 2**26
_CPU_WIDTHS, _DEVICE_WIDTHS = (32, 4096), (1024, 65536)

# The settings of JAX that change a program.
_CONFIG = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_threefry_partitionable",
)


def jax_config() -> dict[str, Any]:
    """Returns the settings of JAX that change a program."""
    return {name: getattr(jax.config, name) for name in _CONFIG}


def no_mesh() -> Any:
    """Returns a context in which the mesh of the training script does not count.

    Under an explicit mesh every new array is sharded over all devices, and a program
    for one device, or for a mesh of its own, is refused.
    """
    return jax.set_mesh(jax.sharding.Mesh(np.empty((), object), ()))


def auto_width(parameters: int, device: jax.Device, memory: int = 0) -> int:
    """Returns the number of trials that suits a device: a power of two.

    As many as suit the parameters, and fit into the memory of the device if each of
    them took so many bytes; on CPU into a gigabyte.
    """
    on_cpu = device.platform == "cpu"
    low, high = _CPU_WIDTHS if on_cpu else _DEVICE_WIDTHS
    room = (_CPU_BYTES if on_cpu else _DEVICE_BYTES) // (4 * _ARRAYS_PER_PARAMETER)
    fits = int(np.clip(room // max(1, parameters), low, high))
    known = (device.memory_stats() or {}).get("bytes_limit", 2**30)
    fits = max(1, min(fits, known // max(1, memory)))
    return int(2 ** (fits.bit_length() - 1))


def memory_of(jaxpr: jax.extend.core.Jaxpr) -> int:
    """Returns the bytes of all values of a program, those of a loop's body once."""
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
    """Compiles with the options that suit the program and the device."""
    lowered: jax.stages.Lowered = traced.lower()
    if device.platform == "cpu":
        try:
            return lowered.compile(cpu_options(str(traced.jaxpr)))
        except jax.errors.JaxRuntimeError as error:
            if "INVALID_ARGUMENT" not in str(error):  # else an option this XLA lacks
                raise
    return lowered.compile()


def cpu_options(program: str) -> dict[str, Any]:
    """Returns what makes XLA:CPU fast for many small runs.

    It hands a sum over each trial's few parameters to a library of kernels once its
    input has 4096 elements, which costs more than the whole fused step: 435 ms for
    65,536 runs of two weights instead of 50. Programs with dots lose without that
    library; for them a lower level gives the same speed after half the compilation.
    The others gain a sixth by vectors of 512 bits, where the processor has them: 4096
    runs of two weights, 200 steps, take 1.97 ms instead of 2.33.
    """
    if "dot_general" in program or "conv_general_dilated" in program:
        return {"xla_backend_optimization_level": 2}
    return {
        "xla_cpu_experimental_ynn_fusion_type": "",
        "xla_cpu_prefer_vector_width": "512",
    }
