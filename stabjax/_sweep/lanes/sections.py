"""A step as one or several loops over trials, so that XLA:CPU computes nothing twice.

XLA (jaxlib 0.8 to 0.12) makes one loop of each output and computes in it whatever the
output depends on: with two weights, the clip factor and the learning rate twice, and
their parts up to eight times. A short step is therefore a single fused loop. In longer
ones, values that several outputs need become outputs of calls that XLA does not inline.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from stabjax._sweep.lanes.equations import (
    Atom,
    Constant,
    Equation,
    Flat,
    dependent,
    evaluated,
    needed,
    used,
)
from stabjax._sweep.lanes.fusion import fused, is_fusible
from stabjax._train.jaxprs import bound

# XLA never computes these twice.
_EXPENSIVE = "div rem sqrt rsqrt exp log pow sin cos tan tanh logistic erf"
_EXPENSE = 8  # of one of them, in units of an addition
_ENOUGH = 2  # operations whose repetition costs as much as memory


class _Section(NamedTuple):
    equations: list[Equation]
    inputs: list[int]
    outputs: list[int]


class Sectioned(NamedTuple):
    """A step, divided into a part before the loop and a part inside it."""

    program: Flat
    before: list[Equation]
    kept: list[int]  # results of `before` that are read by the sections
    sections: list[_Section]

    def prepare(self, fixed: dict[int, Any]) -> dict[int, Any]:
        """Computes the values that are the same at every step."""
        read = evaluated(self.before, fixed)
        return {i: read(i) for i in self.kept}

    def outputs(self, values: dict[int, Any]) -> list[Any]:
        """Computes the outputs of a step."""
        known = dict(values)
        for section in self.sections:
            inputs = [known[i] for i in section.inputs]
            found = _fused(section, inputs) or _called(section, inputs)
            known.update(zip(section.outputs, found, strict=True))
        return [
            atom.value if isinstance(atom, Constant) else known[atom]
            for atom in self.program.outputs
        ]


def sectioned(program: Flat, varying: Sequence[int]) -> Sectioned:
    """Divides a step, where `varying` are the inputs that change between steps."""
    program = _simplified(program)
    varies = dependent(program, varying)
    constant = [e for e in program.equations if _is_constant(e)]
    before = [e for e in program.equations if not varies.intersection(e.outputs)]
    inside = [e for e in program.equations if varies.intersection(e.outputs)]
    inside = needed([*constant, *inside], program.outputs)
    whole = _whole(inside, program.outputs)
    sections = [whole] if whole else _sections(inside, program.outputs)
    computed = {e.outputs[0] for e in inside}
    kept = used(inside, program.outputs) - varies - computed
    return Sectioned(program, needed(before, [*kept]), sorted(kept), sections)


def _is_constant(equation: Equation) -> bool:
    return all(isinstance(atom, Constant) for atom in equation.inputs)


def _called(section: _Section, inputs: list[Any]) -> list[Any]:
    def body(*values: Any) -> list[Any]:
        given = dict(zip(section.inputs, values, strict=True))
        return [*map(evaluated(section.equations, given), section.outputs)]

    (result,) = jax.jit(body)(*inputs)
    return [set_xla_metadata(result, inlineable="false")]


def _fused(section: _Section, inputs: list[Any]) -> list[Any] | None:
    if len(section.outputs) == 1:
        return None
    (shape,) = {x.shape for x in inputs if x.ndim}

    def vector(value: Any) -> Any:
        return value if np.ndim(value) else lax.full(shape, value, value.dtype)

    def body(*values: jax.Array) -> list[Any]:
        known: dict[Atom, Any] = dict(zip(section.inputs, values, strict=True))
        for primitive, params, atoms, (output,), *_ in section.equations:
            read = (a.value if isinstance(a, Constant) else known[a] for a in atoms)
            found = [*map(vector, read)]
            if primitive.name != "broadcast_in_dim":
                found = bound(primitive, params, found)
            (known[output],) = found
        return [known[i] for i in section.outputs]

    return fused(body, *inputs)


def _whole(equations: list[Equation], outputs: Sequence[Atom]) -> _Section | None:
    """Returns the step as a single section, or None if it is not a short step."""
    computed = {e.outputs[0] for e in equations}
    mine = sorted(computed.intersection(a for a in outputs if isinstance(a, int)))
    read = sorted(used(equations, []) - computed)
    names = {e.primitive.name for e in equations}
    dtypes = {x.dtype for e in equations for x in e.avals}
    avals = {
        atom: aval
        for e in equations
        for atom, aval in zip(e.inputs, e.avals[: len(e.inputs)], strict=True)
    }
    if not any(avals[i].shape for i in read):  # only what the trials share
        return None
    fusible = is_fusible(names, dtypes, len(read), len(mine))
    return _Section(equations, read, mine) if fusible else None


def _sections(equations: list[Equation], outputs: Sequence[Atom]) -> list[_Section]:
    cost = _costs(equations)
    # Variable -> the sections that compute it.
    places: dict[int, set[int]] = {a: {a} for a in outputs if isinstance(a, int)}
    for equation in reversed(equations):
        (output,) = equation.outputs
        if cost[output] * (len(places[output]) - 1) > _ENOUGH:
            places[output] = {output}
        for atom in equation.inputs:
            if isinstance(atom, int) and places.get(atom) != {atom}:
                places[atom] = places.get(atom, set()) | places[output]
    roots = [e.outputs[0] for e in equations if places[e.outputs[0]] == {e.outputs[0]}]
    found = []
    for root in roots:
        others = {*roots} - {root}
        mine = needed([e for e in equations if e.outputs[0] not in others], [root])
        read = used(mine, []) - {e.outputs[0] for e in mine}
        found.append(_Section(mine, sorted(read), [root]))
    return found


def _costs(equations: list[Equation]) -> dict[Atom, int]:
    """Returns the cost of recomputing each variable from variables used twice."""
    readers: dict[Atom, int] = {}
    for equation in equations:
        for atom in {*equation.inputs}:
            readers[atom] = readers.get(atom, 0) + 1
    cost: dict[Atom, int] = {}
    for equation in equations:
        name = equation.primitive.name
        total = (
            _EXPENSE if name in _EXPENSIVE.split() else int(name != "broadcast_in_dim")
        )
        total += sum(cost.get(a, 0) for a in {*equation.inputs} if readers[a] == 1)
        cost[equation.outputs[0]] = total
    return cost


def _simplified(program: Flat) -> Flat:
    """Removes duplicate equations and equations that have no effect."""
    same: dict[int, Atom] = {}
    known: dict[Any, list[int]] = {}
    made: dict[Atom, Equation] = {}
    kept = []

    def renamed(atom: Atom) -> Atom:
        return same.get(atom, atom) if isinstance(atom, int) else atom

    for equation in program.equations:
        equation = equation._replace(inputs=[*map(renamed, equation.inputs)])
        key = (
            equation.primitive.name,
            repr(equation.params),
            *map(_name, equation.inputs),
        )
        found = known.get(key) or _nothing(equation, made)
        if found:
            same.update(zip(equation.outputs, found, strict=True))
            continue
        known[key] = equation.outputs
        made[equation.outputs[0]] = equation
        kept.append(equation)
    return program._replace(equations=kept, outputs=[*map(renamed, program.outputs)])


def _nothing(equation: Equation, made: dict[Atom, Equation]) -> list[Atom] | None:
    """Returns inputs that equal the outputs, as for 1 x, x / 1 or 1 / (1 / x)."""

    def is_(atom: Atom, value: float) -> bool:
        if atom in made and made[atom].primitive.name == "broadcast_in_dim":
            (atom,) = made[atom].inputs
        return isinstance(atom, Constant) and bool(np.all(atom.value == value))

    name, inputs = equation.primitive.name, equation.inputs
    if name == "mul" and is_(inputs[0], 1):
        return [inputs[1]]
    if name in ("mul", "div") and is_(inputs[1], 1):
        return [inputs[0]]
    inner = made.get(inputs[-1] if name == "div" else inputs[0])
    if name == "div" and is_(inputs[0], 1) and inner and inner.primitive.name == "div":
        return [inner.inputs[1]] if is_(inner.inputs[0], 1) else None
    converted = inner and inner.primitive.name == "convert_element_type"
    if name == "gt" and is_(inputs[1], 0) and inner and converted:
        return [*inner.inputs] if inner.avals[0].dtype == np.bool_ else None
    return None


def _name(atom: Atom) -> Any:
    if isinstance(atom, int):
        return atom
    value = np.asarray(atom.value)
    return value.dtype.name, value.shape, value.tobytes()
