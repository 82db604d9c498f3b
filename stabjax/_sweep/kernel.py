"""A chunk of small runs as one loop over vectors, each of them a number of every trial.

`vmap` makes an array of the trials of every array of a trial, and XLA (jaxlib 0.10 to
0.12) a handful of kernels of every step, which exchange these arrays through memory.
"""

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend import core

from stabjax._sweep.equations import (
    Constant,
    Equation,
    Flat,
    dependent,
    evaluated,
    flat,
    needed,
    used,
)
from stabjax._sweep.lanes import Inexpressible, Parts, evaluated_in_parts
from stabjax._sweep.sections import sectioned
from stabjax._train.state import Training

LARGEST = 64  # parameters, each of which becomes a vector
_CPU_BLOCK = 256  # trials; their numbers fit into the first-level cache
_GPU_BLOCK, _GPU_WARPS = 128, 4  # trials; one for each thread
_TABLE_BYTES = 2**26  # of what the trials share, over all steps

_Variables = dict[str, jax.Array]
_Chunk = Callable[[Any, Any], _Variables]
_Vectors = list[jax.Array]
# State, and the constants of the loop and of the end, that a trial begins with.
_Begun = tuple[_Vectors, _Vectors, _Vectors]
# A step: constants, state and what trials share at the step -> new state.
_Advance = Callable[[_Vectors, _Vectors, list[Parts]], _Vectors]


class _Stage(NamedTuple):
    """A part of the loop."""

    advance: _Advance
    first: int
    last: int  # not included


class _Parts(NamedTuple):
    """The programs of a trial; a constant is None where it is an output of `_Begun`."""

    loop: core.Jaxpr
    loop_constants: list[Any]
    end: core.Jaxpr
    end_constants: list[Any]
    variables: Any  # the tree of the outputs of `end`


class Run(NamedTuple):
    """A run in parts, as programs of flat lists of arrays."""

    names: dict[str, jax.ShapeDtypeStruct]  # of the inputs
    begin: Flat  # inputs -> state, constants of the loop, constants of the end
    loop: Flat  # constants, state -> state
    end: Flat  # constants, state -> variables
    sizes: tuple[int, int, int]  # of the outputs of `begin`
    variables: Any  # the tree of the outputs of `end`


def chunk_of(run: Run, own: Collection[str], steps: int, platform: str) -> _Chunk:
    """Returns a function of the values that trials share and those of each trial.

    Raises `Inexpressible` if a step is more than a few operations on numbers.

    Args:
      run: the run of one trial.
      own: the names of the values that differ between the trials.
      steps: number of steps.
      platform: `"cpu"`, or that of a device with Triton.
    """
    plan = _planned(run, [name in own for name in run.names], steps)
    loop = _on_cpu if platform == "cpu" else _on_gpu
    if plan.table_bytes(steps) > _TABLE_BYTES:
        raise Inexpressible("a long table of shared values")

    def chunk(shared: _Variables, lanes: _Variables) -> _Variables:
        given = {**shared, **lanes}
        return plan.trained([given[name] for name in run.names], steps, loop)

    shapes = ({}, {})
    for name, aval in run.names.items():
        size = (1,) if name in own else ()
        shapes[name in own][name] = jax.ShapeDtypeStruct(size + aval.shape, aval.dtype)
    jax.eval_shape(chunk, *shapes)
    return chunk


def trained(
    training: Training, variables: Callable[[Any], _Variables], steps: int
) -> tuple[_Variables, _Begun, _Parts]:
    """Trains one trial; also returns what `run_of` needs.

    User code is traced once for both.
    """
    start, step, result, _ = training
    leaves, tree = jax.tree.flatten(start)
    leaves = [*map(jnp.asarray, leaves)]

    def advanced(*state: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(step(jax.tree.unflatten(tree, state))[0])

    def ended(*state: jax.Array) -> _Variables:
        return variables(result(jax.tree.unflatten(tree, state), steps))

    loop = jax.make_jaxpr(advanced)(*leaves)
    end, shapes = jax.make_jaxpr(ended, return_shape=True)(*leaves)
    advance, finish = map(core.jaxpr_as_fun, (loop, end))
    state, _ = lax.scan(lambda s, _: (advance(*s), None), leaves, length=steps)
    names = jax.tree.structure(shapes)
    begun = leaves, *([*filter(_is_traced, c.consts)] for c in (loop, end))
    known = [[*map(_constant, c.consts)] for c in (loop, end)]
    parts = _Parts(loop.jaxpr, known[0], end.jaxpr, known[1], names)
    return jax.tree.unflatten(names, finish(*state)), begun, parts


def run_of(
    values: Mapping[str, jax.ShapeDtypeStruct], traced: jax.stages.Traced, parts: _Parts
) -> Run:
    """Returns the run of a trial that was traced.

    Args:
      values: the inputs of the trial.
      traced: a function of `values` that returns anything and then the second result of
        `trained`.
      parts: the third result of `trained`.
    """
    begun = traced.out_info[-1]
    sizes = len(begun[0]), len(begun[1]), len(begun[2])
    whole = traced.jaxpr
    first = len(whole.jaxpr.outvars) - sum(sizes)
    return Run(
        {name: values[name] for name in sorted(values)},
        flat(whole.jaxpr, whole.consts, first=first),
        flat(parts.loop, parts.loop_constants),
        flat(parts.end, parts.end_constants),
        sizes,
        parts.variables,
    )


def _is_traced(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer)


def _constant(value: Any) -> Any:
    return None if _is_traced(value) else value


class _Plan(NamedTuple):
    """Which values of a run the trials share."""

    run: Run
    given: list[int | None]  # axis of each input of `begin`
    begun: list[int | None]  # axis of each output of `begin`
    lanes: frozenset[int]  # inputs of the loop that differ between trials
    fixed: list[int]  # those of them that are constants which the loop reads
    carried: list[int]  # those of them that are part of the state
    own: list[Equation]  # of the loop, for each trial
    residuals: list[int]  # variables of the loop that trials share and `own` reads
    common: list[Equation]  # of the loop, once for all trials
    conditions: dict[int, Any]  # residual -> its values at all steps, if it is known

    def table_bytes(self, steps: int) -> int:
        avals = [self.run.loop.avals[i] for i in self.residuals]
        return steps * sum(a.size * a.dtype.itemsize for a in avals)

    def trained(
        self, given: _Vectors, steps: int, loop: Callable[..., Any]
    ) -> _Variables:
        """Trains a chunk."""
        begin = jax.vmap(_function(self.run.begin), self.given, self.begun)
        found = begin(*given)
        size, constants, _ = self.run.sizes
        state, rest = found[:size], found[size:]
        inputs = [*rest[:constants], *state]
        state, tables = self._shared(inputs, steps)
        shapes = {i: inputs[i].shape[1:] for i in self.lanes}
        shapes |= {i: self.run.loop.avals[i].shape for i in self.residuals}
        fixed, carried = (
            [c for i in places for c in _columns(inputs[i])]
            for places in (self.fixed, self.carried)
        )
        tables = [c for table in tables for c in _columns(table)]
        columns = loop(self._stages(shapes, steps), fixed, carried, tables)
        for i, values in _grouped(columns, self.carried, shapes).items():
            state[i - constants] = jnp.stack(values, 1).reshape(inputs[i].shape)
        axes = [*self.begun[size + constants :]]
        axes += [0 if constants + i in self.lanes else None for i in range(size)]
        end = jax.vmap(_function(self.run.end), axes)
        return jax.tree.unflatten(self.run.variables, end(*rest[constants:], *state))

    def _shared(self, inputs: _Vectors, steps: int) -> tuple[_Vectors, _Vectors]:
        """The state after all steps, where trials share it, and what the loop reads."""
        program, (size, constants, _) = self.run.loop, self.run.sizes
        carried = [i for i in range(constants, constants + size) if i not in self.lanes]
        fixed = {i: inputs[i] for i in range(constants) if i not in self.lanes}

        def step(values: _Vectors, _: None) -> tuple[_Vectors, _Vectors]:
            known = {**fixed, **dict(zip(carried, values, strict=True))}
            read = evaluated(self.common, known)
            new = [jnp.asarray(read(program.outputs[i - constants])) for i in carried]
            return new, [*map(read, self.residuals)]

        start = [inputs[i] for i in carried]
        values, tables = lax.scan(step, start, None, length=steps)
        state = inputs[constants:]
        for i, value in zip(carried, values, strict=True):
            state[i - constants] = value
        return state, tables

    def _stages(
        self, shapes: Mapping[int, tuple[int, ...]], steps: int
    ) -> list[_Stage]:
        """The loop in stages: conditions are constants where they last for long."""
        first, last = _longest([*self.conditions.values()], steps)
        fixed = {i: x[first].reshape(-1) for i, x in self.conditions.items()}
        anywhere = self._advance(shapes, {})
        stages = [
            _Stage(anywhere, 0, first),
            _Stage(self._advance(shapes, fixed), first, last),
            _Stage(anywhere, last, steps),
        ]
        return [stage for stage in stages if stage.last > stage.first]

    def _advance(
        self, shapes: Mapping[int, tuple[int, ...]], conditions: Mapping[int, Any]
    ) -> _Advance:
        """The step of the loop."""

        def advance(fixed: _Vectors, state: _Vectors, shared: _Vectors) -> _Vectors:
            given = (
                (self.fixed, fixed),
                (self.carried, state),
                (self.residuals, shared),
            )
            known = {
                i: Parts(shapes[i], [*conditions.get(i, values)])
                for places, columns in given
                for i, values in _grouped(columns, places, shapes).items()
            }
            read = evaluated_in_parts(self.own, known)
            outputs = [
                self.run.loop.outputs[i - self.run.sizes[1]] for i in self.carried
            ]
            new = [element for atom in outputs for element in read(atom).elements]
            return [*map(_like, new, state)]

        return advance


def _longest(conditions: Sequence[Any], steps: int) -> tuple[int, int]:
    """The longest stretch of steps at which no condition changes."""
    changes = {0, steps}
    for values in conditions:
        rows = values.reshape(steps, -1)
        changes.update(1 + np.flatnonzero((rows[1:] != rows[:-1]).any(axis=1)))
    return max(itertools.pairwise(sorted(changes)), key=lambda pair: pair[1] - pair[0])


def _known(
    run: Run, common: list[Equation], residuals: list[int], lanes: set[int], steps: int
) -> dict[int, Any]:
    """The conditions that follow from constants, at all steps."""
    (size, constants, _), program = run.sizes, run.loop
    starts = dict(enumerate(run.begin.outputs[:size], constants))
    unknown = {i for i in range(constants) if i not in lanes}
    unknown |= {i for i, a in starts.items() if not isinstance(a, Constant)} | lanes
    found = set[int]()
    while not unknown <= found:
        found = dependent(program, unknown)
        new = {constants + i for i, a in enumerate(program.outputs) if a in found}
        unknown |= new
    wanted = [i for i in residuals if i not in found and program.avals[i].dtype == bool]
    carried = [i for i in starts if i not in found]
    if not wanted:
        return {}
    atoms = [program.outputs[i - constants] for i in carried]
    equations = needed(common, [*wanted, *atoms])

    def step(values: Any, _: None) -> Any:
        read = evaluated(equations, dict(zip(carried, values, strict=True)))
        return [*map(jnp.asarray, map(read, atoms))], [*map(read, wanted)]

    start = [jnp.asarray(starts[i].value) for i in carried]
    with jax.ensure_compile_time_eval():
        _, tables = jax.jit(lambda s: lax.scan(step, s, None, length=steps))(start)
    return dict(zip(wanted, map(np.asarray, tables), strict=True))


def _like(value: Any, vector: jax.Array) -> jax.Array:
    if np.shape(value) == vector.shape:
        return value
    return jnp.full(vector.shape, value, vector.dtype)


def _planned(run: Run, own: Sequence[bool], steps: int) -> _Plan:
    given = [0 if mine else None for mine in own]
    differ = dependent(run.begin, [i for i, mine in enumerate(own) if mine])
    begun = [0 if a in differ else None for a in run.begin.outputs]
    (size, constants, _), program = run.sizes, run.loop
    lanes = {i for i in range(constants) if begun[size + i] == 0}
    found = {constants + i for i in range(size) if begun[i] == 0}
    differ = set[int]()
    while not found | lanes <= differ:
        lanes |= found
        differ = dependent(program, lanes)
        found = {constants + i for i, a in enumerate(program.outputs) if a in differ}
    for i in lanes:
        if i >= constants:
            begun[i - constants] = 0
    carried = sorted(i for i in lanes if i >= constants)
    wanted = [program.outputs[i - constants] for i in carried]
    mine = [e for e in program.equations if differ.intersection(e.outputs)]
    mine = needed(mine, wanted)
    read = used(mine, wanted)
    residuals = sorted(read - differ)
    both = [e for e in program.equations if not differ.intersection(e.outputs)]
    rest = [a for i, a in enumerate(program.outputs) if constants + i not in lanes]
    fixed = sorted(i for i in lanes & read if i < constants)
    common = needed(both, [*rest, *residuals])
    conditions = _known(run, common, residuals, lanes, steps)
    return _Plan(
        run,
        given,
        begun,
        frozenset(lanes),
        fixed,
        carried,
        mine,
        residuals,
        common,
        conditions,
    )


def _function(program: Flat) -> Callable[..., list[Any]]:
    def call(*values: Any) -> list[Any]:
        read = evaluated(program.equations, dict(enumerate(values)))
        return [jnp.asarray(read(atom)) for atom in program.outputs]

    return call


def _columns(array: jax.Array) -> _Vectors:
    rows = array.reshape(array.shape[0], -1)
    return [rows[:, i] for i in range(rows.shape[1])]


def _grouped(
    columns: Sequence[Any], places: Sequence[int], shapes: Mapping[int, tuple[int, ...]]
) -> dict[int, list[Any]]:
    rest = iter(columns)
    return {i: [next(rest) for _ in range(math.prod(shapes[i]))] for i in places}


def _on_cpu(
    stages: Sequence[_Stage], fixed: _Vectors, state: _Vectors, tables: _Vectors
) -> _Vectors:
    """The loop in blocks that stay in the first-level cache, one after the other.

    XLA compiles a small call as one function, where it otherwise runs a task for each
    fusion.
    """

    def block(fixed: _Vectors, state: _Vectors, tables: _Vectors) -> _Vectors:
        for stage in stages:
            state = _stage_on_cpu(stage, fixed, state, tables)
        return state

    def call(given: tuple[_Vectors, _Vectors]) -> _Vectors:
        first, *rest = jax.jit(block)(*given, tables)
        marks = {"xla_cpu_small_call": "true", "inlineable": "false"}
        return [set_xla_metadata(first, **marks), *rest]

    def cut(x: jax.Array) -> jax.Array:
        return jnp.pad(x, (0, padding), "edge").reshape(-1, _CPU_BLOCK)

    size = len(state[0])
    padding = -size % _CPU_BLOCK
    found = lax.map(call, jax.tree.map(cut, (fixed, state)))
    return [x.reshape(-1)[:size] for x in found]


def _stage_on_cpu(
    stage: _Stage, fixed: _Vectors, state: _Vectors, tables: _Vectors
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


def _on_gpu(
    stages: Sequence[_Stage], fixed: _Vectors, state: _Vectors, tables: _Vectors
) -> _Vectors:
    """The loop as one kernel, which holds all numbers of a trial in registers."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    size, count = len(state[0]), len(fixed)
    padding = -size % _GPU_BLOCK
    own = [jnp.pad(_stored(x), (0, padding), "edge") for x in [*fixed, *state]]
    shared = [*map(_stored, tables)]
    dtypes = [x.dtype for x in [*fixed, *state, *tables]]

    def kernel(*refs: Any) -> None:
        places, outputs = refs[: len(dtypes)], refs[len(dtypes) :]
        vectors = [_loaded(r[...], d) for r, d in zip(places[: len(own)], dtypes)]
        constants, values = vectors[:count], vectors[count:]

        for stage in stages:

            def step(t: jax.Array, values: _Vectors, stage: _Stage = stage) -> _Vectors:
                known = zip(places[len(own) :], dtypes[len(own) :], strict=True)
                rows = [_loaded(ref[t], dtype) for ref, dtype in known]
                return stage.advance(constants, values, rows)

            values = lax.fori_loop(stage.first, stage.last, step, values)
        for ref, value in zip(outputs, values, strict=True):
            ref[...] = _stored(value)

    block = pl.BlockSpec((_GPU_BLOCK,), lambda i: (i,))
    call = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in own[count:]],
        grid=(len(own[0]) // _GPU_BLOCK,),
        in_specs=[*[block] * len(own), *[pl.BlockSpec()] * len(shared)],
        out_specs=[block] * len(state),
        compiler_params=triton.CompilerParams(num_warps=_GPU_WARPS),
    )
    found = call(*own, *shared)
    return [_loaded(x[:size], v.dtype) for x, v in zip(found, state, strict=True)]


def _stored(value: jax.Array) -> jax.Array:
    """A value as memory holds it: Triton has no arrays of booleans."""
    return value.astype(jnp.int32) if value.dtype == bool else value


def _loaded(value: jax.Array, dtype: Any) -> jax.Array:
    return value != 0 if dtype == bool else value
