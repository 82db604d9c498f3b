"""JAX and XLA options for vectorized small runs."""

import contextlib
import gc
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

SMALL_CALL = "xla_cpu_small_call"  # metadata of a call that XLA compiles as a function
_SMALL_CALLS: dict[str, Any] = {
    # A small call cannot contain parallel tasks.
    "xla_disable_hlo_passes": "cpu-parallel-task-assigner",
    # Compiles two weights in 0.9 s instead of 1.2 s, and they are as fast.
    "xla_backend_optimization_level": 2,
    # With XLA's older emitters (up to jaxlib 0.11), the toy of `benchmarks/toy.py`
    # compiles in 0.75 to 0.9 of the time to the same bits. Networks would compile in
    # half the time, but run 16% to 25% slower.
    "xla_cpu_use_fusion_emitters": False,
}


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


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Pauses Python's garbage collector. Also used as a decorator.

    Tracing creates enough objects to trigger collections (in Python 3.11 to 3.12) that
    visit everything JAX has imported. Each takes 0.1 s, and tracing and lowering a
    network of two layers 0.4 s without them.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def compiled_for(traced: jax.stages.Traced, device: jax.Device) -> jax.stages.Compiled:
    """Compiles a traced program with suitable options for the device."""
    options = cpu_options(traced.jaxpr) if device.platform == "cpu" else {}
    with no_collection():
        lowered = traced.lower()
    return compiled_with(options, lowered)


def compiled_with(
    options: Mapping[str, Any], lowered: jax.stages.Lowered
) -> jax.stages.Compiled:
    """Compiles a program with the options that this version of XLA supports."""
    while options:
        try:
            return lowered.compile(dict(options))
        except jax.errors.JaxRuntimeError as error:
            if "INVALID_ARGUMENT" not in str(error):  # not an unknown option
                raise
            known = {n: v for n, v in options.items() if repr(n) not in str(error)}
            options = known if len(known) < len(options) else {}
    return lowered.compile()


def cpu_options(program: Any) -> dict[str, Any]:
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
    names = _operations(program, set())
    # Wrong values of atan with 512-bit vectors in jaxlib 0.10.2.
    wide = not any("atan" in name for name in names)
    options: dict[str, Any] = {"xla_cpu_experimental_ynn_fusion_type": ""}
    options |= {"xla_cpu_prefer_vector_width": "512"} if wide else {}
    if SMALL_CALL in names:
        return options | _SMALL_CALLS
    if "dot_general" in names or "conv_general_dilated" in names:
        return {"xla_backend_optimization_level": 2}
    return options


def _operations(program: Any, seen: set[int]) -> set[str]:
    """Returns the names of all primitives, and `SMALL_CALL` if there is such a call.

    A search in the printed program would take 15 ms, which is how long printing takes.
    """
    found: set[str] = set()
    for equation in program.eqns:
        found.add(equation.primitive.name)
        if "xla_metadata" in equation.primitive.name:
            found |= {SMALL_CALL} if SMALL_CALL in str(equation.params) else set()
        for part in jax.tree.leaves([*equation.params.values()], is_leaf=is_program):
            if is_program(part) and id(part) not in seen:
                seen.add(id(part))
                found |= _operations(part, seen)
    return found


def is_program(value: Any) -> bool:
    """Returns whether this is a jaxpr, closed or not."""
    return hasattr(value, "eqns")
