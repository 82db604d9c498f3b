"""The loop over steps on a CPU, in blocks that stay in its first-level cache."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from stabjax._sweep.compiler import SMALL_CALL
from stabjax._sweep.lanes.equations import flat
from stabjax._sweep.lanes.sections import sectioned
from stabjax._sweep.lanes.stage import Stage

_Vectors = list[jax.Array]
_Tree: TypeAlias = Any


def in_blocks(
    train: Callable[[_Tree, _Vectors], _Tree],
    lanes: _Tree,
    tables: _Vectors,
    vectors: int,
) -> _Tree:
    """Trains blocks of trials one after the other.

    There are two at least, so that XLA keeps the loop and a trial has the same bits
    whatever the number of trials. `vectors` is the number of vectors that the loop over
    steps reads and writes.
    """
    (size,) = {len(x) for x in jax.tree.leaves(lanes)}
    # All of them should fit in the first-level cache. 1024 is 5% faster than 512 with 8
    # vectors, and up to 40% slower with 13.
    width = 1024 if vectors <= 8 else 512
    blocks = max(2, math.ceil(size / width))

    def cut(x: jax.Array) -> jax.Array:
        padding = blocks * width - size
        return jnp.pad(x, (0, padding), "edge").reshape(blocks, width)

    # XLA (jaxlib 0.10 to 0.12) aborts if an argument of a small call is a constant, so
    # a slice that XLA does not know selects the tables.
    padded = [jnp.pad(table, (0, 1)) for table in tables]

    def block(given: tuple[jax.Array, _Tree]) -> _Tree:
        zero = jnp.minimum(given[0], 0)
        rows = [lax.dynamic_slice_in_dim(x, zero, len(x) - 1) for x in padded]
        return train(given[1], rows)

    numbers = jnp.arange(blocks, dtype=jnp.int32)
    found = lax.map(block, (numbers, jax.tree.map(cut, lanes)))
    joined: _Tree = jax.tree.map(lambda x: x.reshape(-1)[:size], found)
    return joined


def looped_on_cpu(
    stages: Sequence[Stage], fixed: _Vectors, state: _Vectors, tables: _Vectors
) -> _Vectors:
    """Runs all steps of a block.

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

    first, *rest = jax.jit(block)(fixed, state, tables)
    marks = {SMALL_CALL: "true", "inlineable": "false"}
    found = [set_xla_metadata(first, **marks), *rest]
    kept: _Vectors = lax.optimization_barrier(found)[: len(state)]
    return kept


def _looped(
    stage: Stage, fixed: _Vectors, state: _Vectors, tables: _Vectors
) -> _Vectors:
    program = stage.traced(fixed, state, tables)
    constants = len(fixed)
    varying = range(constants, len(program.jaxpr.invars))
    cut = sectioned(flat(program.jaxpr, program.consts, largest=1), varying)
    prepared = cut.prepare(dict(enumerate(fixed)))

    def rows(t: jax.Array) -> _Vectors:
        return [lax.dynamic_index_in_dim(x, t, keepdims=False) for x in tables]

    # Each step reads the rows of the next one. XLA would move what reads its own rows
    # into the fused loop.
    def step(carried: tuple[jax.Array, _Vectors, _Vectors]) -> Any:
        t, state, row = carried
        values = dict(enumerate([*state, *row], constants))
        return t + 1, cut.outputs(prepared | values), rows(t + 1)

    first = jnp.asarray(stage.first, jnp.int32)
    start = first, state, rows(first)
    return lax.while_loop(lambda carried: carried[0] < stage.last, step, start)[1]
