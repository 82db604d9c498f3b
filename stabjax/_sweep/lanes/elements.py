"""Evaluation of programs in which each array element is a vector over the trials."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stabjax._sweep.lanes.equations import (
    Constant,
    Equation,
    Inexpressible,
    by_numpy,
    flat,
)
from stabjax._train.jaxprs import bound


class Elements(NamedTuple):
    """The elements of an array in row-major order.

    Each element is a vector over the trials or a scalar that all trials share. A scalar
    is a tracer, or a NumPy scalar if its value is known at trace time.
    """

    shape: tuple[int, ...]
    elements: list[Any]

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """Returns an array of element positions with the shape of the original."""
        return np.arange(len(self.elements), dtype=np.int32).reshape(self.shape)


_Rule = Callable[[Equation, list[Elements]], list[Elements]]
_LARGEST = 4096  # elements of an array; more are not worth vectors of their own

_NAMES = """abs acos acosh add and asin asinh atan atan2 atanh cbrt ceil clamp clz
convert_element_type cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt
integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not
or population_count pow reduce_precision rem round rsqrt select_n shift_left
shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan tanh xor"""
ELEMENTWISE = frozenset(_NAMES.split())
UNCHANGED = {"copy", "copy_p", "optimization_barrier", "stop_gradient", "pvary"}
# The number of inputs whose elements move; the others are positions.
_MOVES: dict[str, int | None] = {
    "broadcast_in_dim": 1,
    "concatenate": None,
    "dynamic_slice": 1,
    "expand_dims": 1,
    "gather": 1,
    "pad": 2,
    "reshape": 1,
    "rev": 1,
    "slice": 1,
    "split": 1,
    "squeeze": 1,
    "stack": None,
    "transpose": 1,
    "unstack": 1,
}
_REDUCTIONS = {
    "reduce_and": lax.bitwise_and,
    "reduce_max": lax.max,
    "reduce_min": lax.min,
    "reduce_or": lax.bitwise_or,
    "reduce_prod": lax.mul,
    "reduce_sum": lax.add,
}


def evaluated_in_elements(
    equations: Sequence[Equation], known: dict[int, Elements]
) -> Callable[[Any], Elements]:
    """Evaluates equations on parts and returns a function that looks up values."""
    known = dict(known)

    def read(atom: Any) -> Elements:
        return elements_of(atom.value) if isinstance(atom, Constant) else known[atom]

    for equation in equations:
        found = _outputs(equation, [*map(read, equation.inputs)])
        known.update(zip(equation.outputs, found, strict=True))
    return read


def elements_of(array: Any) -> Elements:
    """Splits an array that all trials share into its elements."""
    if isinstance(array, jax.core.Tracer):
        if array.size > _LARGEST:
            raise Inexpressible(f"an array of {array.size} elements")
        row = array.reshape(-1)
        return Elements(array.shape, [row[i] for i in range(array.size)])
    if jnp.issubdtype(array.dtype, jax.dtypes.extended):
        raise Inexpressible("a key")
    values = np.asarray(array)
    if values.size > _LARGEST:
        raise Inexpressible(f"an array of {values.size} elements")
    return Elements(values.shape, [*values.reshape(-1)])


def _outputs(equation: Equation, inputs: list[Elements]) -> list[Elements]:
    name = equation.primitive.name
    if name in UNCHANGED or name == "reduce_precision" and _is_exact(equation):
        return inputs
    if name in ELEMENTWISE:
        return [_elementwise(_function(equation), inputs)]
    if name == "add_any":
        return [_elementwise(lax.add, inputs)]
    if name in _MOVES:
        return _moved(equation, inputs)
    if name in _REDUCTIONS:
        return [_reduced(_REDUCTIONS[name], equation.params["axes"], inputs[0])]
    rule = _RULES.get(name)
    if rule is None:
        raise Inexpressible(name)
    return rule(equation, inputs)


def _is_exact(rounding: Equation) -> bool:
    """Returns whether a number keeps all bits, as in the norms of `stabjax`."""
    dtype = rounding.avals[0].dtype
    if dtype.kind != "f":  # bfloat16, which NumPy does not know
        return False
    limits = np.finfo(dtype)
    kept = rounding.params["exponent_bits"], rounding.params["mantissa_bits"]
    return bool(kept == (limits.nexp, limits.nmant))


def _function(equation: Equation) -> Callable[..., Any]:
    name, params = equation.primitive.name, equation.params

    def function(*values: Any) -> Any:
        if all(isinstance(x, np.generic) for x in values):
            found = by_numpy(name, params, [*map(np.asarray, values)])
            if found is not None:
                return found
        return bound(equation.primitive, params, values)[0]

    return lax.select_n if name == "select_n" else function


def _elementwise(function: Callable[..., Any], inputs: list[Elements]) -> Elements:
    shape = max((x.shape for x in inputs), key=len)
    size = math.prod(shape)
    columns = [x.elements if x.shape == shape else x.elements * size for x in inputs]
    rows = zip(*columns, strict=True)
    return Elements(shape, [_apply(function, *row) for row in rows])


def _apply(function: Callable[..., Any], *values: Any) -> Any:
    """Applies an operation to vectors and scalars, folding constants."""
    if all(isinstance(x, np.generic) for x in values):
        with jax.ensure_compile_time_eval():
            return np.asarray(function(*values))[()]
    if function is lax.select_n and isinstance(values[0], np.generic):
        return values[1 + int(values[0])]
    shape = max(map(np.shape, values), key=len)
    return function(*(_broadcast(x, shape) for x in values))


def _broadcast(value: Any, shape: tuple[int, ...]) -> Any:
    if np.shape(value) == shape:
        return value
    if isinstance(value, np.generic):
        return lax.full(shape, np.asarray(value), value.dtype)
    return lax.broadcast(value, shape)


def _moved(equation: Equation, inputs: list[Elements]) -> list[Elements]:
    """Applies a data movement by moving the positions of the elements."""
    count = _MOVES[equation.primitive.name] or len(inputs)
    elements = [e for x in inputs[:count] for e in x.elements]
    starts = np.cumsum([0, *(len(x.elements) for x in inputs)], dtype=np.int32)
    places = [x.array + n for x, n in zip(inputs, starts[:-1], strict=True)][:count]
    rest = [_constant(x) for x in inputs[count:]]
    name = equation.primitive.name
    moved = by_numpy(name, equation.params, places) if not rest else None
    if moved is not None:
        found = [moved]
    elif name == "unstack":
        found = [*np.moveaxis(places[0], equation.params["axis"], 0)]
    elif name == "split":
        starts = np.cumsum(equation.params["sizes"])[:-1]
        found = np.split(places[0], starts, equation.params["axis"])
    else:
        with jax.ensure_compile_time_eval():
            found = bound(equation.primitive, equation.params, [*places, *rest])
            found = [*map(np.asarray, found)]
    if any(((x < 0) | (x >= len(elements))).any() for x in found):
        raise Inexpressible(f"{name} beyond the bounds")
    return [Elements(x.shape, [elements[i] for i in x.reshape(-1)]) for x in found]


def _constant(array: Elements) -> np.ndarray[Any, Any]:
    if not all(isinstance(x, np.generic) for x in array.elements):
        raise Inexpressible("an index that is unknown at trace time")
    return np.asarray(array.elements).reshape(array.shape)


def _reduced(operation: Any, axes: Sequence[int], x: Elements) -> Elements:
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    shape = tuple(x.shape[axis] for axis in kept)
    if not math.prod(x.shape):
        raise Inexpressible("a reduction of nothing")
    rows = x.array.transpose(*kept, *axes).reshape(math.prod(shape), -1)
    return Elements(shape, [_tree(operation, [x.elements[i] for i in r]) for r in rows])


def _tree(operation: Any, values: list[Any]) -> Any:
    """Reduces values pairwise in a balanced tree."""
    while len(values) > 1:
        even = len(values) // 2 * 2
        pairs = zip(values[:even:2], values[1:even:2], strict=True)
        values = [_apply(operation, *pair) for pair in pairs] + values[even:]
    return values[0]


def _arg(better: Any) -> _Rule:
    def rule(equation: Equation, inputs: list[Elements]) -> list[Elements]:
        (x,), (axis,) = inputs, equation.params["axes"]
        dtype = np.dtype(equation.params["index_dtype"]).type
        rows = np.moveaxis(x.array, axis, -1)
        found = []
        for row in rows.reshape(-1, rows.shape[-1]):
            best, place = x.elements[row[0]], dtype(0)
            for number, i in enumerate(row[1:], 1):
                value = x.elements[i]
                # The position of the first NaN wins, as in XLA.
                won = _apply(
                    lax.bitwise_or,
                    _apply(better, value, best),
                    _apply(lax.ne, value, value),
                )
                was = _apply(lax.eq, best, best)
                won = _apply(lax.bitwise_and, won, was)
                best = _apply(lax.select_n, won, best, value)
                place = _apply(lax.select_n, won, place, dtype(number))
            found.append(place)
        return [Elements(rows.shape[:-1], found)]

    return rule


def _cumulative(operation: Any) -> _Rule:
    def rule(equation: Equation, inputs: list[Elements]) -> list[Elements]:
        (x,), axis = inputs, equation.params["axis"]
        places = np.moveaxis(x.array, axis, -1)
        found = list(x.elements)
        for row in places.reshape(-1, places.shape[-1]):
            order = row[::-1] if equation.params["reverse"] else row
            for before, i in itertools.pairwise(order):
                found[i] = _apply(operation, found[before], found[i])
        return [Elements(x.shape, found)]

    return rule


def _dot(equation: Equation, inputs: list[Elements]) -> list[Elements]:
    (summed, batched) = equation.params["dimension_numbers"]
    dtype = equation.avals[-1].dtype
    a, b = (_elementwise(partial(_converted, dtype), [x]) for x in inputs)
    rows = []
    for x, along, over in zip((a, b), summed, batched, strict=True):
        free = [n for n in range(len(x.shape)) if n not in (*along, *over)]
        sizes = [math.prod(x.shape[n] for n in axes) for axes in (over, free, along)]
        rows.append(x.array.transpose(*over, *free, *along).reshape(sizes))
    (batch, m, k), n = rows[0].shape, rows[1].shape[1]
    if batch * m * n * k > _LARGEST:
        raise Inexpressible(f"a product of {batch * m * n * k} terms")
    if not k:
        raise Inexpressible("a product of nothing")
    found = [
        _tree(
            lax.add,
            [
                _apply(lax.mul, a.elements[p], b.elements[q])
                for p, q in zip(rows[0][i, j], rows[1][i, r], strict=True)
            ],
        )
        for i in range(batch)
        for j in range(m)
        for r in range(n)
    ]
    return [Elements(equation.avals[-1].shape, found)]


def _converted(dtype: Any, value: Any) -> Any:
    return lax.convert_element_type(value, dtype)


def _cond(equation: Equation, inputs: list[Elements]) -> list[Elements]:
    """Evaluates all branches and selects one."""
    (index,), values = inputs[0].elements, inputs[1:]
    branches = equation.params["branches"]
    outputs = []
    for branch in branches:
        program = flat(branch.jaxpr, branch.consts)
        read = evaluated_in_elements(program.equations, dict(enumerate(values)))
        outputs.append([*map(read, program.outputs)])
    if index.dtype != bool:
        zero = index.dtype.type(0)
        tests = [_apply(lax.gt, index, zero + n) for n in range(len(branches) - 1)]
    else:
        tests = [index]
    found = outputs[0]
    for test, chosen in zip(tests, outputs[1:], strict=True):
        condition = Elements((), [test])
        found = [
            _elementwise(lax.select_n, [condition, *pair])
            for pair in zip(found, chosen, strict=True)
        ]
    return found


def _bitcast(equation: Equation, inputs: list[Elements]) -> list[Elements]:
    if equation.avals[-1].shape != inputs[0].shape:
        raise Inexpressible("bits as numbers of another width")
    return [_elementwise(_function(equation), inputs)]


_RULES: dict[str, _Rule] = {
    "argmax": _arg(lax.gt),
    "argmin": _arg(lax.lt),
    "bitcast_convert_type": _bitcast,
    "cond": _cond,
    "cumsum": _cumulative(lax.add),
    "cumprod": _cumulative(lax.mul),
    "cummax": _cumulative(lax.max),
    "cummin": _cumulative(lax.min),
    "dot_general": _dot,
}
