"""The loop over steps on a CPU, in blocks that stay in its first-level cache."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from stabjax._sweep.lanes.equations import flat
from stabjax._sweep.lanes.sections import sectioned
from stabjax._sweep.lanes.stage import Stage

_BLOCK = 256  # trials

_Vectors = list[jax.Array]


def looped_on_cpu(
    stages: Sequence[Stage], fixed: _Vectors, state: _Vectors, tables: _Vectors
) -> _Vectors:
    """The loop in blocks that stay in the first-level cache, one after the other.

    XLA compiles a small call as one function, where it otherwise runs a task for each
    fusion.
    """

    def block(fixed: _Vectors, state: _Vectors, tables: _Vectors) -> _Vectors:
        given = fixed, state, tables
        for stage in stages:
            state = _looped(stage, fixed, state, tables)
        # XLA (jaxlib 0.10 to 0.12) aborts if such a function ignores an argument, so it
        # returns all of them.
        return [*state, *jax.tree.leaves(lax.optimization_barrier(given))]

    def call(given: tuple[_Vectors, _Vectors]) -> _Vectors:
        first, *rest = jax.jit(block)(*given, tables)
        marks = {"xla_cpu_small_call": "true", "inlineable": "false"}
        return [set_xla_metadata(first, **marks), *rest]

    def cut(x: jax.Array) -> jax.Array:
        return jnp.pad(x, (0, padding), "edge").reshape(-1, _BLOCK)

    size = len(state[0])
    padding = -size % _BLOCK
    found = lax.map(call, jax.tree.map(cut, (fixed, state)))
    found = lax.optimization_barrier(found)[: len(state)]
    return [x.reshape(-1)[:size] for x in found]


def _looped(
    stage: Stage, fixed: _Vectors, state: _Vectors, tables: _Vectors
) -> _Vectors:
    rows = [jax.ShapeDtypeStruct((), table.dtype) for table in tables]
    program = jax.make_jaxpr(stage.advance)(fixed, state, rows)
    constants = len(fixed)
    varying = range(constants, len(program.jaxpr.invars))
    cut = sectioned(flat(program.jaxpr, program.consts, largest=1), varying)
    prepared = cut.prepare(dict(enumerate(fixed)))

    def step(carried: tuple[jax.Array, _Vectors]) -> tuple[jax.Array, _Vectors]:
        t, state = carried
        rows = [lax.dynamic_index_in_dim(x, t, keepdims=False) for x in tables]
        values = dict(enumerate([*state, *rows], constants))
        return t + 1, cut.outputs(prepared | values)

    start = jnp.asarray(stage.first, jnp.int32), state
    return lax.while_loop(lambda carried: carried[0] < stage.last, step, start)[1]
