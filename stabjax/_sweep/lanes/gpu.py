"""The loop over steps on a GPU, as one kernel."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stabjax._sweep.lanes.equations import Inexpressible
from stabjax._sweep.lanes.stage import Stage

# Trials and warps: two trials for each thread. On an H200 this is 1.1 times as fast as
# one for each, and reaches 0.62 of a hand-written kernel with 65,536 runs of two
# weights, and 0.31 with 1,048,576; one loop under `vmap` reaches 0.03 and 0.05.
_BLOCK, _WARPS = 256, 4

_Vectors = list[jax.Array]


def looped_on_gpu(
    stages: Sequence[Stage], fixed: _Vectors, state: _Vectors, tables: _Vectors
) -> _Vectors:
    """Runs the loop as a single kernel that keeps the state of a trial in registers."""
    try:
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import triton
    except ImportError as error:  # JAX 0.12 announces that it will go
        raise Inexpressible("a kernel without Triton") from error
    for stage in stages:
        stage.traced(fixed, state, tables)  # raises an error if it is long
    size, count = len(state[0]), len(fixed)
    padding = -size % _BLOCK
    own = [jnp.pad(_stored(x), (0, padding), "edge") for x in [*fixed, *state]]
    shared = [*map(_stored, tables)]
    dtypes = [x.dtype for x in [*fixed, *state, *tables]]

    def kernel(*refs: Any) -> None:
        places, outputs = refs[: len(dtypes)], refs[len(dtypes) :]
        known = zip(places[: len(own)], dtypes[: len(own)], strict=True)
        vectors = [_loaded(ref[...], dtype) for ref, dtype in known]
        constants, values = vectors[:count], vectors[count:]

        for stage in stages:

            def step(t: jax.Array, values: _Vectors, stage: Stage = stage) -> _Vectors:
                known = zip(places[len(own) :], dtypes[len(own) :], strict=True)
                rows = [_loaded(ref[t], dtype) for ref, dtype in known]
                return stage.advance(constants, values, rows)

            values = lax.fori_loop(stage.first, stage.last, step, values)
        for ref, value in zip(outputs, values, strict=True):
            ref[...] = _stored(value)

    block = pl.BlockSpec((_BLOCK,), lambda i: (i,))
    call = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in own[count:]],
        grid=(len(own[0]) // _BLOCK,),
        in_specs=[*[block] * len(own), *[pl.BlockSpec()] * len(shared)],
        out_specs=[block] * len(state),
        compiler_params=triton.CompilerParams(num_warps=_WARPS),
    )
    found = call(*own, *shared)
    return [_loaded(x[:size], v.dtype) for x, v in zip(found, state, strict=True)]


def _stored(value: jax.Array) -> jax.Array:
    """Converts a value for storage, because Triton has no boolean arrays."""
    return value.astype(jnp.int32) if value.dtype == np.bool_ else value


def _loaded(value: jax.Array, dtype: Any) -> jax.Array:
    return value != 0 if dtype == np.bool_ else value
