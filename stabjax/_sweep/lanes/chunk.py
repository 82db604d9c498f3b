"""A chunk of trials: what they share once, and the rest as vectors over trials."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stabjax._sweep.lanes.cpu import in_blocks, looped_on_cpu
from stabjax._sweep.lanes.elements import Elements, evaluated_in_elements
from stabjax._sweep.lanes.equations import (
    Equation,
    Flat,
    Inexpressible,
    evaluated,
    needed,
)
from stabjax._sweep.lanes.gpu import looped_on_gpu
from stabjax._sweep.lanes.run import Run
from stabjax._sweep.lanes.split import Split, split
from stabjax._sweep.lanes.stage import Advance, Stage

_TABLE_BYTES = 2**24  # of what the trials share, over all steps

_Variables = dict[str, jax.Array]
_Chunk = Callable[[Any, Any], _Variables]
_Vectors = list[jax.Array]


class _Common(NamedTuple):
    """What all trials of a chunk share."""

    state: dict[int, Any]  # inputs of the loop: their values after all steps
    tables: _Vectors  # the numbers that the loop reads, each at all steps


def chunk_of(run: Run, own: Collection[str], steps: int, platform: str) -> _Chunk:
    """Returns a function that trains a chunk from shared values and values per trial.

    Args:
      run: the run of a trial.
      own: the names of the values that differ between trials.
      steps: number of steps.
      platform: `"cpu"` or a platform with Triton support.

    Raises:
      Inexpressible: If a step needs operations that this engine does not support. The
        function also raises it when it is traced.
    """
    parts = split(run, [name in own for name in run.names], steps)
    loop = looped_on_cpu if platform == "cpu" else looped_on_gpu
    avals = [run.loop.avals[i] for i in parts.residuals]
    if steps * sum(a.size * a.dtype.itemsize for a in avals) > _TABLE_BYTES:
        raise Inexpressible("a long table of shared values")

    def chunk(shared: _Variables, lanes: _Variables) -> _Variables:
        common = _shared(run, parts, shared, steps)

        def trained(lanes: _Variables, tables: _Vectors) -> _Variables:
            given = {**shared, **lanes}
            values = [given[name] for name in run.names]
            known = common._replace(tables=tables)
            return _trained(run, parts, values, known, steps, loop)

        if platform == "cpu":
            places = [*parts.fixed, *parts.carried]
            count = sum(run.loop.avals[i].size for i in places)
            found: _Variables = in_blocks(trained, lanes, common.tables, count)
            return found
        return trained(lanes, common.tables)

    return chunk


def _trained(
    run: Run,
    parts: Split,
    given: _Vectors,
    common: _Common,
    steps: int,
    loop: Callable[..., _Vectors],
) -> _Variables:
    """Trains vectors of trials, given what they share."""
    begin = jax.vmap(_function(run.begin), parts.given, parts.begun)
    found = begin(*given)
    size, constants, _ = run.sizes
    inputs = [*found[size : size + constants], *found[:size]]
    state = [common.state.get(i, x) for i, x in enumerate(inputs)][constants:]
    shapes = {i: inputs[i].shape[1:] for i in parts.lanes}
    shapes |= {i: run.loop.avals[i].shape for i in parts.residuals}
    fixed, carried = (
        [c for i in places for c in _columns(inputs[i])]
        for places in (parts.fixed, parts.carried)
    )
    stages = _stages(run, parts, shapes, steps)
    columns = loop(stages, fixed, carried, common.tables)
    for i, values in _grouped(columns, parts.carried, shapes).items():
        state[i - constants] = jnp.stack(values, 1).reshape(inputs[i].shape)
    axes = [*parts.begun[size + constants :]]
    axes += [0 if constants + i in parts.lanes else None for i in range(size)]
    results = jax.vmap(_function(run.end), axes)(*found[size + constants :], *state)
    variables: _Variables = jax.tree.unflatten(run.variables, results)
    return variables


def _shared(run: Run, parts: Split, shared: _Variables, steps: int) -> _Common:
    (size, constants, _), outputs = run.sizes, run.begin.outputs
    atoms = dict(enumerate([*outputs[size : size + constants], *outputs[:size]]))
    begun = [i for i in atoms if i not in parts.lanes]
    given = {i: shared[name] for i, name in enumerate(run.names) if name in shared}
    wanted = [atoms[i] for i in begun]
    read = evaluated(needed(run.begin.equations, wanted), given)
    inputs = {i: jnp.asarray(read(atoms[i])) for i in begun}
    fixed = {i: value for i, value in inputs.items() if i < constants}
    new = [run.loop.outputs[i - constants] for i in parts.shared]

    left = [i for i in parts.residuals if i not in parts.constant]

    def step(values: _Vectors, row: dict[int, Any]) -> tuple[_Vectors, _Vectors]:
        known = {**fixed, **row, **dict(zip(parts.shared, values, strict=True))}
        read = evaluated(parts.common, known)
        return [jnp.asarray(read(atom)) for atom in new], [*map(read, left)]

    start = [inputs[i] for i in parts.shared]
    rows = {i: jnp.asarray(values[:-1]) for i, values in parts.known.items()}
    values, tables = start, list[Any]()
    if start or _bytes(run, parts.common) * steps > _TABLE_BYTES:
        values, tables = lax.scan(step, start, rows, length=steps)
    elif left:  # the scan would be a thousand kernels on a GPU
        tables = jax.vmap(lambda row: step([], row)[1], axis_size=steps)(rows)
    state = dict(zip(parts.shared, values, strict=True))
    state |= {i: jnp.asarray(known[-1]) for i, known in parts.known.items()}
    rows = {**parts.constant, **dict(zip(left, tables, strict=True))}
    tables = [jnp.asarray(rows[i]) for i in parts.residuals]
    return _Common(state, [c for table in tables for c in _columns(table)])


def _bytes(run: Run, equations: Sequence[Equation]) -> int:
    """The bytes of all values, at one step."""
    avals = [run.loop.avals[i] for e in equations for i in e.outputs]
    return sum(a.size * a.dtype.itemsize for a in avals)


def _stages(
    run: Run, parts: Split, shapes: Mapping[int, tuple[int, ...]], steps: int
) -> list[Stage]:
    """The loop in stages: what does not change for long is a constant there."""
    first, last = parts.steady

    def same(first: int, last: int) -> dict[int, Any]:
        return {
            i: values[first].reshape(-1)
            for i, values in parts.constant.items()
            if (values[first:last] == values[first]).all()
        }

    anywhere = _advance(run, parts, shapes, same(0, steps))
    stages = [
        Stage(anywhere, 0, first),
        Stage(_advance(run, parts, shapes, same(first, last)), first, last),
        Stage(anywhere, last, steps),
    ]
    return [stage for stage in stages if stage.last > stage.first]


def _advance(
    run: Run,
    parts: Split,
    shapes: Mapping[int, tuple[int, ...]],
    conditions: Mapping[int, Any],
) -> Advance:
    """The step of the loop."""
    outputs = [run.loop.outputs[i - run.sizes[1]] for i in parts.carried]

    def advance(fixed: _Vectors, state: _Vectors, shared: _Vectors) -> _Vectors:
        given = (parts.fixed, fixed), (parts.carried, state), (parts.residuals, shared)
        known = {
            i: Elements(shapes[i], [*conditions.get(i, values)])
            for places, columns in given
            for i, values in _grouped(columns, places, shapes).items()
        }
        read = evaluated_in_elements(parts.own, known)
        new = [element for atom in outputs for element in read(atom).elements]
        return [*map(_like, new, state)]

    return advance


def _like(value: Any, vector: jax.Array) -> jax.Array:
    """The value as a vector; it is a scalar where all trials have the same."""
    same = np.shape(value) == vector.shape
    found: jax.Array = value if same else jnp.full(vector.shape, value, vector.dtype)
    return found


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
