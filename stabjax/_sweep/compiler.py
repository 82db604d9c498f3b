"""Options of JAX and XLA for many small runs, and how many fit on a device."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.extend.core
import numpy as np

# A step keeps this number of arrays of a parameter's size in use. On CPU they should
# fit into part of a core's second-level cache (measured optima: 4096 trials of 2
# parameters, 1024 of 10, 128 of 100, 32 of 2410); elsewhere they fill the device.
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
    """Returns a context without the mesh that `jax.set_mesh` has set.

    Under an explicit mesh the type of every new array contains the mesh, and JAX (0.10
    to 0.12) refuses a program for one device or for another mesh.
    """
    return jax.set_mesh(jax.sharding.Mesh(np.empty((), object), ()))


@contextlib.contextmanager
def configured(config: Mapping[str, Any]) -> Iterator[None]:
    """The settings of JAX that the sweep was called with, in another thread."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(no_mesh())
        for name, value in config.items():
            stack.enter_context(getattr(jax, name.removeprefix("jax_"))(value))
        yield


def auto_width(parameters: int, device: jax.Device, memory: int = 0) -> int:
    """Returns the number of trials that suits a device: a power of two.

    It grows with the inverse number of parameters. If a trial needs `memory` bytes, all
    of them fit into the memory of the device; on CPU into one gigabyte.
    """
    on_cpu = device.platform == "cpu"
    low, high = _CPU_WIDTHS if on_cpu else _DEVICE_WIDTHS
    room = (_CPU_BYTES if on_cpu else _DEVICE_BYTES) // (4 * _ARRAYS_PER_PARAMETER)
    fits = int(np.clip(room // max(1, parameters), low, high))
    known = (device.memory_stats() or {}).get("bytes_limit", 2**30)
    fits = max(1, min(fits, known // max(1, memory)))
    return int(2 ** (fits.bit_length() - 1))


def memory_of(jaxpr: jax.extend.core.Jaxpr) -> int:
    """Returns the bytes of all values of a program; a loop's body counts once."""
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
    """Returns the options that make XLA:CPU fast for many small runs.

    XLA (jaxlib 0.10 to 0.12) hands a sum over the few parameters of each trial to the
    kernel library YNNPACK once its input has 4096 elements. That costs more than the
    whole fused step: 435 ms instead of 50 ms for 65,536 runs of two weights. Programs
    with dots need the library; for them a lower optimization level gives the same speed
    after half the compilation. The others gain a sixth from 512-bit vectors: 1.97 ms
    instead of 2.33 ms for 4096 runs of two weights over 200 steps.
    """
    if "dot_general" in program or "conv_general_dilated" in program:
        return {"xla_backend_optimization_level": 2}
    return {
        "xla_cpu_experimental_ynn_fusion_type": "",
        "xla_cpu_prefer_vector_width": "512",
    }
