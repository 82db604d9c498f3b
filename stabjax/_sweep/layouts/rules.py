"""Rules for operations other than matrix products.

A rule takes an equation and the kinds of its inputs. It returns None if the equation
has parameters that it does not support.
"""

import math
from collections.abc import Callable
from typing import Any

from jax import lax

from stabjax._sweep.lanes.elements import ELEMENTWISE, UNCHANGED
from stabjax._sweep.layouts.steps import (
    Cost,
    Kind,
    Step,
    changed,
    distance,
    plain,
    rank_of,
    renumbered,
    shape_of,
)
from stabjax._train.jaxprs import bound

Rule = Callable[[Any, list[Kind]], Step | None]


def _elementwise(equation: Any, kinds: list[Kind]) -> Step:
    """Uses the order of the largest array that is not in its original order."""
    rank = rank_of(equation.outvars[0])
    order, largest = plain(rank), 0
    for atom, kind in zip(equation.invars, kinds, strict=True):
        size = math.prod(shape_of(atom))
        if len(kind.order) == rank and not kind.is_plain and size > largest:
            order, largest = kind.order, size
    inputs = [order if len(k.order) == rank else k.order for k in kinds]
    return changed(equation, kinds, inputs, order)


def _bitcast(equation: Any, kinds: list[Kind]) -> Step | None:
    if shape_of(equation.invars[0]) != shape_of(equation.outvars[0]):
        return None
    return _elementwise(equation, kinds)


def _same(equation: Any, kinds: list[Kind]) -> Step:
    return Step(
        [kind.order for kind in kinds],
        kinds,
        lambda values: bound(equation.primitive, equation.params, values),
    )


def _reduced(equation: Any, kinds: list[Kind]) -> Step | None:
    if equation.params.get("out_sharding") is not None:
        return None
    order, axes = kinds[0].order, equation.params["axes"]
    rest = renumbered([axis for axis in order if axis not in axes])
    places = tuple(order.index(axis) for axis in axes)
    return changed(equation, kinds, [order], rest, axes=places)


def _transposed(equation: Any, kinds: list[Kind]) -> Step:
    """Renames the axes of an array instead of moving its elements."""
    order, permutation = kinds[0].order, equation.params["permutation"]
    new = tuple(permutation.index(axis) for axis in order)
    cost = distance(
        equation.invars, [Kind(plain(len(order)), kinds[0].own)], [permutation]
    )
    output = Kind(new, kinds[0].own)
    return Step([order], [output], lambda values: values, Cost(cost))


def _broadcast(equation: Any, kinds: list[Kind]) -> Step | None:
    if len(kinds) > 1 or equation.params.get("sharding") is not None:
        return None
    order, shape = kinds[0].order, equation.params["shape"]
    axes = equation.params["broadcast_dimensions"]
    new = [*range(len(shape))]
    for place, axis in zip(sorted(axes), order, strict=True):
        new[place] = axes[axis]
    places = tuple(new.index(axes[axis]) for axis in order)
    sizes = tuple(shape[axis] for axis in new)
    found = {"shape": sizes, "broadcast_dimensions": places}
    return changed(equation, kinds, [order], new, **found)


def _reshaped(equation: Any, kinds: list[Kind]) -> Step | None:
    """Adds and removes axes of length 1, and moves them to the front."""
    order, old = kinds[0].order, shape_of(equation.invars[0])
    new = shape_of(equation.outvars[0])
    before, after = ([a for a, n in enumerate(s) if n != 1] for s in (old, new))
    if len(kinds) > 1 or [old[a] for a in before] != [new[a] for a in after]:
        return None
    if equation.primitive is lax.reshape_p and equation.params["dimensions"]:
        return None  # also a transpose
    short = [axis for axis, length in enumerate(new) if length == 1]
    long = [after[before.index(axis)] for axis in order if old[axis] != 1]
    sizes = tuple(new[axis] for axis in (*short, *long))
    output = Kind((*short, *long), kinds[0].own)
    return Step([order], [output], lambda values: [lax.reshape(values[0], sizes)])


_REDUCTIONS = """argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod
reduce_sum reduce_xor"""

RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    "add_any": _elementwise,
    "one_minus_square": _elementwise,  # in the derivative of tanh in JAX 0.12
    # XLA:CPU (jaxlib 0.8 and 0.10) aborts if the operand of a product is also that of a
    # barrier whose result is transposed.
    **dict.fromkeys(UNCHANGED - {"optimization_barrier"}, _same),
    **dict.fromkeys(_REDUCTIONS.split(), _reduced),
    "bitcast_convert_type": _bitcast,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "transpose": _transposed,
}
