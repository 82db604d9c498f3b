"""JAX and XLA options for vectorized small runs."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.extend.core
import numpy as np

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
    options: dict[str, Any]
    options = {"xla_cpu_experimental_ynn_fusion_type": "", **wide}
    if "xla_cpu_small_call" in program:  # which cannot contain parallel tasks
        options["xla_disable_hlo_passes"] = "cpu-parallel-task-assigner"
        # Compiles two weights in 0.9 s instead of 1.2 s, and they are as fast.
        return {**options, "xla_backend_optimization_level": 2}
    if "dot_general" in program or "conv_general_dilated" in program:
        return {"xla_backend_optimization_level": 2}
    return options
