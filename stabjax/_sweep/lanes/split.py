"""Which values of a run the trials of a chunk share, and which of them are known."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stabjax._sweep.lanes.equations import (
    Constant,
    Equation,
    Inexpressible,
    dependent,
    evaluated,
    needed,
    used,
)
from stabjax._sweep.lanes.run import Run


class Split(NamedTuple):
    """The values of a run; inputs of its loop are constants, and then the state."""

    given: list[int | None]  # axis of each input of the run
    begun: list[int | None]  # axis of each output of `begin`
    lanes: frozenset[int]  # inputs of the loop that differ between trials
    fixed: list[int]  # those of them that are constants which the loop reads
    carried: list[int]  # those of them that are state on which the result depends
    own: list[Equation]  # of the loop, for each trial
    residuals: list[int]  # variables of the loop that trials share and `own` reads
    common: list[Equation]  # of the loop, once for all trials
    shared: list[int]  # inputs of the loop: other state
    known: dict[int, Any]  # state that follows from constants: its values at all steps
    constant: dict[int, Any]  # residuals that follow from such state, at all steps
    steady: tuple[int, int]  # the longest stretch without a change of a condition


def split(run: Run, own: Sequence[bool], steps: int) -> Split:
    """Splits a run; `own` says which of its inputs differ between trials."""
    constants, program = run.sizes[1], run.loop
    begun, lanes, differ = _lanes(run, [i for i, mine in enumerate(own) if mine])
    state = _state(run)
    carried = sorted(i for i in lanes & state)
    if not carried:
        raise Inexpressible("a run that is the same for all trials")
    wanted = [program.outputs[i - constants] for i in carried]
    mine = [e for e in program.equations if not differ.isdisjoint(e.outputs)]
    mine = needed(mine, wanted)
    read = used(mine, wanted)
    residuals = sorted(read - differ)
    both = [e for e in program.equations if differ.isdisjoint(e.outputs)]
    shared = sorted(state - lanes)
    outputs = [program.outputs[i - constants] for i in shared]
    common = needed(both, [*outputs, *residuals])
    known = _known(run, common, shared, steps)
    constant = _constant(run, common, residuals, known)
    left = [i for i in residuals if i not in constant]
    return Split(
        given=[0 if mine else None for mine in own],
        begun=begun,
        lanes=frozenset(lanes),
        fixed=sorted(i for i in lanes & read if i < constants),
        carried=carried,
        own=mine,
        residuals=residuals,
        common=needed(common, [*outputs, *left]),
        shared=[i for i in shared if i not in known],
        known=known,
        constant=constant,
        steady=_longest([x for x in constant.values() if x.dtype == np.bool_], steps),
    )


def _lanes(run: Run, own: Sequence[int]) -> tuple[list[int | None], set[int], set[int]]:
    """Axes of the outputs of `begin`, inputs and variables of the loop that differ."""
    (size, constants, _), program = run.sizes, run.loop
    differ = dependent(run.begin, own)
    begun: list[int | None] = [0 if a in differ else None for a in run.begin.outputs]
    lanes = {i for i in range(constants) if begun[size + i] == 0}
    found = {constants + i for i in range(size) if begun[i] == 0}
    differ = set()
    while not found | lanes <= differ:
        lanes |= found
        differ = dependent(program, lanes)
        found = {constants + i for i, a in enumerate(program.outputs) if a in differ}
    for i in lanes:
        if i >= constants:
            begun[i - constants] = 0
    return begun, lanes, differ


def _state(run: Run) -> set[int]:
    """The inputs of the loop that are state on which the result depends."""
    (size, constants, more), program = run.sizes, run.loop
    read = used(run.end.equations, run.end.outputs)
    found, new = (
        set[int](),
        {i - more + constants for i in read if more <= i < more + size},
    )
    while not new <= found:
        found |= new
        outputs = [program.outputs[i - constants] for i in found]
        read = used(needed(program.equations, outputs), outputs)
        new = {i for i in read if constants <= i < constants + size}
    return found


def _is_key(value: Any) -> bool:
    return bool(jnp.issubdtype(jnp.asarray(value).dtype, jax.dtypes.prng_key))


def _known(
    run: Run, common: list[Equation], shared: list[int], steps: int
) -> dict[int, Any]:
    """The part of the shared state that follows from constants, at all steps."""
    constants, program = run.sizes[1], run.loop
    starts = {i: run.begin.outputs[i - constants] for i in shared}
    known = {
        i: a.value
        for i, a in starts.items()
        if isinstance(a, Constant) and not _is_key(a.value)  # NumPy cannot hold keys
    }
    lost = known
    while lost:
        found = _unknown(run, known)
        lost = {
            i: x for i, x in known.items() if program.outputs[i - constants] in found
        }
        known = {i: value for i, value in known.items() if i not in lost}
    atoms = [program.outputs[i - constants] for i in known]
    equations = needed(common, atoms)

    def step(values: Any, _: None) -> Any:
        read = evaluated(equations, dict(zip(known, values, strict=True)))
        return [jnp.asarray(read(atom)) for atom in atoms], values

    with jax.ensure_compile_time_eval(), jax.default_device(jax.devices("cpu")[0]):
        start = [*map(jnp.asarray, known.values())]
        last, rows = jax.jit(lambda s: lax.scan(step, s, None, length=steps))(start)
        values = [
            np.append(row, np.asarray(value)[None], 0)
            for row, value in zip(rows, last, strict=True)
        ]
    return dict(zip(known, values, strict=True))


def _unknown(run: Run, known: dict[int, Any]) -> set[int]:
    """The variables of the loop that depend on more than known state."""
    inputs = set(range(run.sizes[0] + run.sizes[1]))
    return dependent(run.loop, inputs - known.keys())


def _constant(
    run: Run, common: list[Equation], residuals: list[int], known: dict[int, Any]
) -> dict[int, Any]:
    """The residuals that follow from known state, at all steps.

    XLA would compute them when it compiles or when it runs, with other last bits.
    """
    found = _unknown(run, known)
    wanted = [i for i in residuals if i not in found]
    if not wanted:
        return {}
    equations = needed(common, wanted)

    def row(values: dict[int, Any]) -> list[Any]:
        return [*map(evaluated(equations, values), wanted)]

    with jax.ensure_compile_time_eval(), jax.default_device(jax.devices("cpu")[0]):
        rows = {i: jnp.asarray(values[:-1]) for i, values in known.items()}
        tables = jax.jit(jax.vmap(row))(rows)
        return dict(zip(wanted, map(np.asarray, tables), strict=True))


def _longest(conditions: Sequence[Any], steps: int) -> tuple[int, int]:
    """The longest stretch of steps at which no condition changes."""
    changes = {0, steps}
    for values in conditions:
        rows = values.reshape(steps, -1)
        changed = (rows[1:] != rows[:-1]).any(axis=1)
        changes.update(1 + int(step) for step in np.flatnonzero(changed))
    return max(itertools.pairwise(sorted(changes)), key=lambda pair: pair[1] - pair[0])
