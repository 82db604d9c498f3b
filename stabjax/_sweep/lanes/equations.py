"""Flattening of jaxprs to lists of equations, and analysis of their dependencies."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from stabjax._train.jaxprs import bound

# Call primitives that can be inlined. Their names depend on the version of JAX.
_CALLS = """checkpoint closed_call core_call custom_jvp_call custom_vjp_call
custom_vjp_call_jaxpr jit pjit remat remat2"""
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_FOLDED = 4096  # maximum number of elements for constant folding


class Inexpressible(Exception):
    """Raised if an operation cannot be written as a few operations on scalars."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that is known at trace time."""

    value: Any


Atom = int | Constant  # a variable number or a constant
_UNUSED = Constant(None)


class Equation(NamedTuple):
    """A primitive with its inputs and the numbers of its output variables."""

    primitive: Any
    params: dict[str, Any]
    inputs: list[Atom]
    outputs: list[int]
    avals: list[Any]  # of the inputs, then of the outputs
    context: Any  # the settings under which it was traced


class Flat(NamedTuple):
    """A program without calls, whose inputs are the variables 0, 1, ..."""

    equations: list[Equation]
    outputs: list[Atom]
    avals: dict[int, Any]


def flat(
    jaxpr: core.Jaxpr,
    constants: Sequence[Any],
    *,
    first: int = 0,
    largest: int = _FOLDED,
) -> Flat:
    """Inlines all calls of a jaxpr and folds constants.

    Args:
      jaxpr: the program. The inputs of the result are the unknown `constvars`, followed
        by the `invars`.
      constants: the value of each of the `constvars`, or None if it is unknown.
      first: the index of the first output to keep.
      largest: the maximum number of elements for constant folding.

    Raises:
      Inexpressible: If the program has side effects, such as `jax.debug.print`.
    """
    if jaxpr.effects:
        raise Inexpressible("a side effect")
    writer = _Writer(largest)
    known = [
        writer.new(v.aval) if c is None else Constant(c)
        for v, c in zip(jaxpr.constvars, constants, strict=True)
    ]
    given = [writer.new(v.aval) for v in jaxpr.invars]
    wanted = [number >= first for number in range(len(jaxpr.outvars))]
    outputs = writer.write(jaxpr, [*known, *given], wanted)[first:]
    return Flat(writer.equations, outputs, writer.avals)


class _Writer:
    def __init__(self, largest: int) -> None:
        self._largest = largest
        self.equations: list[Equation] = []
        self.avals: dict[int, Any] = {}

    def new(self, aval: Any) -> int:
        self.avals[len(self.avals)] = aval
        return len(self.avals) - 1

    def write(
        self, jaxpr: core.Jaxpr, values: Sequence[Atom], wanted: Sequence[bool]
    ) -> list[Atom]:
        """Appends the equations needed for the wanted outputs, which are returned."""
        variables = [*jaxpr.constvars, *jaxpr.invars]
        known: dict[Any, Atom] = dict(zip(variables, values, strict=True))
        live = _live(jaxpr, wanted)

        def read(atom: Any) -> Atom:
            if isinstance(atom, core.Literal):
                aval: Any = atom.aval
                return Constant(np.asarray(atom.val, aval.dtype))
            return known.get(atom, _UNUSED)

        for equation in jaxpr.eqns:
            if live.isdisjoint(equation.outvars):
                continue
            inputs = [read(atom) for atom in equation.invars]
            found = self._called(equation, inputs, live)
            if found is None:
                found = _folded(equation, inputs, self._largest)
            if found is None:
                outputs = [self.new(v.aval) for v in equation.outvars]
                avals = [v.aval for v in (*equation.invars, *equation.outvars)]
                self.equations.append(
                    Equation(
                        equation.primitive,
                        equation.params,
                        inputs,
                        outputs,
                        avals,
                        equation.ctx,
                    )
                )
                found = [*outputs]
            known.update(zip(equation.outvars, found, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _called(
        self, equation: core.JaxprEqn, inputs: Sequence[Atom], live: set[Any]
    ) -> list[Atom] | None:
        if equation.primitive.name not in _CALLS.split():
            return None
        wanted = [variable in live for variable in equation.outvars]
        for name in _BODIES:
            body = equation.params.get(name)
            if isinstance(body, core.ClosedJaxpr):
                consts = map(Constant, body.consts)
                return self.write(body.jaxpr, [*consts, *inputs], wanted)
            if isinstance(body, core.Jaxpr) and not body.constvars:
                return self.write(body, inputs, wanted)
        raise Inexpressible(equation.primitive.name)


def _live(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> set[Any]:
    """Returns the variables on which the wanted outputs depend."""
    chosen = [v for v, want in zip(jaxpr.outvars, wanted, strict=True) if want]
    live = {v for v in chosen if isinstance(v, core.Var)}
    for equation in reversed(jaxpr.eqns):
        if not live.isdisjoint(equation.outvars):
            live.update(v for v in equation.invars if isinstance(v, core.Var))
    return live


def _folded(
    equation: core.JaxprEqn, inputs: Sequence[Atom], largest: int
) -> list[Atom] | None:
    """Returns the outputs if they are small and depend only on constants, or are 1 x.

    XLA (jaxlib 0.10) also removes a product with ones from a program for one device,
    but not from one for several devices, whose last bits would be different.
    """
    values = [_on_host(x.value) for x in inputs if isinstance(x, Constant)]
    sizes = [getattr(v.aval, "size", largest + 1) for v in equation.outvars]
    if equation.primitive.name == "mul":
        (output,) = (v.aval for v in equation.outvars)
        for x, y, variable in zip(inputs, inputs[::-1], equation.invars, strict=True):
            same = getattr(variable.aval, "shape", None) == getattr(output, "shape", ())
            if same and _is_one(y):
                return [x]
    if len(values) < len(inputs) or max(sizes, default=0) > largest:
        return None
    if not all(isinstance(value, np.ndarray) for value in values):
        return None
    found = by_numpy(equation.primitive.name, equation.params, values)
    return None if found is None else [Constant(found)]


def _is_one(atom: Atom) -> bool:
    value = _on_host(atom.value) if isinstance(atom, Constant) else None
    return isinstance(value, np.ndarray) and bool(np.all(value == 1))


def _on_host(value: Any) -> Any:
    """Copies a small JAX array of numbers to the host, where it can be folded."""
    if not isinstance(value, jax.Array) or isinstance(value, jax.core.Tracer):
        return value
    is_key = jax.numpy.issubdtype(value.dtype, jax.dtypes.extended)
    if is_key or value.size > _FOLDED or not value.is_fully_addressable:
        return value
    return np.asarray(value)


_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "and": np.bitwise_and,
    "broadcast_in_dim": lambda x, *, shape, broadcast_dimensions, **_: np.broadcast_to(
        np.expand_dims(x, [*{*range(len(shape))} - {*broadcast_dimensions}]), shape
    ),
    "div": lambda x, y, **_: x / y if x.dtype.kind == "f" else None,
    "concatenate": lambda *xs, dimension: np.concatenate(xs, dimension),
    "convert_element_type": lambda x, *, new_dtype, **_: x.astype(new_dtype),
    "eq": np.equal,
    "expand_dims": lambda x, *, dimensions: np.expand_dims(x, dimensions),
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.bitwise_not,
    "or": np.bitwise_or,
    "reshape": lambda x, *, new_sizes, **_: x.reshape(new_sizes),
    "rev": lambda x, *, dimensions: np.flip(x, dimensions),
    "select_n": lambda which, *cases: np.choose(which.astype(np.int32), cases),
    "square": lambda x, **_: x * x,
    "slice": lambda x, *, start_indices, limit_indices, strides: x[
        tuple(map(slice, start_indices, limit_indices, strides or [None] * x.ndim))
    ],
    "stack": lambda *xs, axis: np.stack(xs, axis),
    "squeeze": lambda x, *, dimensions: np.squeeze(x, dimensions),
    "sub": np.subtract,
    "transpose": lambda x, *, permutation: np.transpose(x, permutation),
}
_ELEMENTWISE = {name for name, f in _NUMPY.items() if isinstance(f, np.ufunc)}


def by_numpy(
    name: str, params: dict[str, Any], values: Sequence[Any]
) -> np.ndarray[Any, Any] | None:
    """The output of a primitive, if it is one of those that need no compilation.

    JAX compiles every primitive that it runs outside of a program: 25 times 30 ms.
    """
    function = _NUMPY.get(name)
    if function is None:
        return None
    given = {} if name in _ELEMENTWISE or name == "select_n" else params
    with np.errstate(all="ignore"):
        found = function(*values, **given)
    return None if found is None else np.asarray(found)


def dependent(program: Flat, given: Collection[int]) -> set[int]:
    """Returns the given variables and all variables that depend on them."""
    found = set(given)
    for equation in program.equations:
        if found.intersection(_variables(equation.inputs)):
            found.update(equation.outputs)
    return found


def needed(equations: Sequence[Equation], wanted: Sequence[Atom]) -> list[Equation]:
    """Returns the equations that are needed to compute the wanted values."""
    live, kept = {*_variables(wanted)}, list[Equation]()
    for equation in reversed(equations):
        if live.intersection(equation.outputs):
            live.update(_variables(equation.inputs))
            kept.append(equation)
    return kept[::-1]


def used(equations: Sequence[Equation], wanted: Sequence[Atom]) -> set[int]:
    """Returns all variables that are read by the equations or wanted."""
    found = {*_variables(wanted)}
    for equation in equations:
        found.update(_variables(equation.inputs))
    return found


def evaluated(
    equations: Sequence[Equation], values: dict[int, Any]
) -> Callable[[Atom], Any]:
    """Evaluates equations and returns a function that looks up values."""
    known = dict(values)

    def read(atom: Atom) -> Any:
        return atom.value if isinstance(atom, Constant) else known[atom]

    for equation in equations:
        inputs = [*map(read, equation.inputs)]
        with equation.context.manager:  # such as the implementation of random bits
            found = bound(equation.primitive, equation.params, inputs)
        known.update(zip(equation.outputs, found, strict=True))
    return read


def _variables(atoms: Sequence[Atom]) -> Iterator[int]:
    return (atom for atom in atoms if isinstance(atom, int))
