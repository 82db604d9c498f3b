"""Which values of a run the trials of a chunk share, and which of them are known."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stabjax._sweep.compiler import compiled_with
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

# Compilation takes 0.4 s at the usual level, and the program runs once.
_QUICK: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
}


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
    if any(_is_key(program.avals[i]) for i in residuals):
        raise Inexpressible("a key")
    both = [e for e in program.equations if differ.isdisjoint(e.outputs)]
    shared = sorted(state - lanes)
    outputs = [program.outputs[i - constants] for i in shared]
    common = needed(both, [*outputs, *residuals])
    known, constant = _known(run, common, shared, residuals, steps)
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


def _known(
    run: Run,
    common: list[Equation],
    shared: list[int],
    residuals: list[int],
    steps: int,
) -> tuple[dict[int, Any], dict[int, Any]]:
    """The state and the residuals that follow from constants, at all steps.

    XLA would compute them when it compiles or when it runs, with other last bits.
    """
    constants, program = run.sizes[1], run.loop
    starts = {i: run.begin.outputs[i - constants] for i in shared}
    known = {
        i: a.value
        for i, a in starts.items()
        if isinstance(a, Constant) and not _is_key(a.value)
    }
    inputs, lost = set(range(run.sizes[0] + constants)), [0]
    while lost:
        found = dependent(program, inputs - known.keys())
        lost = [i for i in known if program.outputs[i - constants] in found]
        known = {i: value for i, value in known.items() if i not in lost}
    wanted = [i for i in residuals if i not in found]
    atoms = [program.outputs[i - constants] for i in known]

    def step(values: list[Any], _: None) -> tuple[list[Any], list[Any]]:
        equations = needed(common, atoms)
        read = evaluated(equations, dict(zip(known, values, strict=True)))
        return [jnp.asarray(read(atom)) for atom in atoms], values

    def row(values: list[Any]) -> list[Any]:
        equations = needed(common, wanted)
        read = evaluated(equations, dict(zip(known, values, strict=True)))
        return [*map(read, wanted)]

    def at_all_steps(start: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        last, rows = lax.scan(step, start, None, length=steps)
        return last, rows, jax.vmap(row, axis_size=steps)(rows)

    # Compiled before it is evaluated: inside `ensure_compile_time_eval`, JAX (0.10 to
    # 0.12) compiles each operation on constants alone, which takes twice as long.
    start = [*map(np.asarray, known.values())]
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        compiled = compiled_with(_QUICK, jax.jit(at_all_steps).lower(start))
        with jax.ensure_compile_time_eval():
            last, rows, tables = jax.tree.map(np.asarray, compiled(start))
    values = [np.append(row, end[None], 0) for row, end in zip(rows, last, strict=True)]
    return dict(zip(known, values, strict=True)), dict(zip(wanted, tables, strict=True))


def _is_key(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jax.dtypes.extended))


def _longest(conditions: Sequence[Any], steps: int) -> tuple[int, int]:
    """Returns the longest range of steps in which no condition changes."""
    changes = {0, steps}
    for values in conditions:
        rows = values.reshape(steps, -1)
        changed = (rows[1:] != rows[:-1]).any(axis=1)
        changes.update(1 + int(step) for step in np.flatnonzero(changed))
    return max(itertools.pairwise(sorted(changes)), key=lambda pair: pair[1] - pair[0])
