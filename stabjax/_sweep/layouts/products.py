"""The rule for matrix products."""

import math
from collections.abc import Sequence
from typing import Any

from jax import lax

from stabjax._sweep.layouts.steps import (
    Cost,
    Kind,
    Order,
    Step,
    any_own,
    distance,
    plain,
    rank_of,
    renumbered,
    shape_of,
)
from stabjax._train.jaxprs import bound


def product(equation: Any, kinds: list[Kind]) -> Step | None:
    """Chooses which operand of a matrix product is the first, and the orders of both.

    XLA:CPU (jaxlib 0.10 to 0.12) uses the YNNPACK kernel library for a batched product
    only if the contracted axis is the last of the first operand: 30 us instead of 65
    for 32 products of a 10 x 64 and a 64 x 32 matrix.
    """
    precision = equation.params["precision"]
    is_known = precision is None or type(precision) in (tuple, lax.Precision)
    if not is_known or equation.params.get("out_sharding") is not None:
        return None
    free = _free(equation, kinds)
    first = _first(equation, kinds, free)
    left, right, numbers = _arranged(equation, kinds, free, first)
    params = {**equation.params, "dimension_numbers": numbers}
    if first and type(precision) is tuple:
        params["precision"] = precision[::-1]
    batch = numbers[1][0]
    begins = len(batch), len(batch) + len(free[0])
    output = [
        begins[side] + axis
        for side in (first, 1 - first)
        for axis in renumbered(free[side])
    ]

    def apply(values: list[Any]) -> Sequence[Any]:
        one, two = values[first], values[1 - first]
        if left != kinds[first].order:  # XLA would undo this transpose
            one = lax.optimization_barrier(one)
        return bound(equation.primitive, params, [one, two])

    return Step(
        [right, left] if first else [left, right],
        [Kind((*batch, *output), any_own(kinds))],
        apply,
        Cost(_hidden(equation, kinds)),
    )


def _first(equation: Any, kinds: Sequence[Kind], free: Sequence[Sequence[int]]) -> int:
    """Returns which operand is the first.

    `vmap` puts the trials first in the result if the first operand differs between
    trials. If both do, the operand that needs no transpose is the first. If both need
    one, it is the second, which is the weights in `x @ w` and in the gradient of `x`.
    Otherwise, the longer free axis is the last of the result.
    """
    if kinds[0].own != kinds[1].own:
        return int(kinds[1].own)
    moves, sizes = [], []
    for side, (atom, kind) in enumerate(zip(equation.invars, kinds, strict=True)):
        left, *_ = _arranged(equation, kinds, free, side)
        moves.append(distance([atom], [kind], [left]) > 0)
        sizes.append(math.prod(shape_of(atom)[axis] for axis in free[side]))
    if all(moves):
        return 1
    if any(moves) and not all(kind.is_plain for kind in kinds):
        return int(moves[0])
    return int(sizes[0] >= sizes[1])


def _free(equation: Any, kinds: Sequence[Kind]) -> list[list[int]]:
    """Returns the axes of each operand that are also axes of the result."""
    contracted, batch = equation.params["dimension_numbers"]
    return [
        [axis for axis in kind.order if axis not in (*inner, *outer)]
        for kind, inner, outer in zip(kinds, contracted, batch, strict=True)
    ]


def _arranged(
    equation: Any, kinds: Sequence[Kind], free: Sequence[Sequence[int]], first: int
) -> tuple[Order, Order, Any]:
    """Returns the orders of the operands and the numbers of their axes.

    The axes of the first operand are batch, free and contracted. The second operand
    keeps its order, except that batch axes come first.
    """
    contracted, batch = equation.params["dimension_numbers"]
    second = 1 - first
    rest = [axis for axis in kinds[second].order if axis not in batch[second]]
    pairs = sorted(
        zip(contracted[first], contracted[second], strict=True),
        key=lambda pair: rest.index(pair[1]),
    )
    left = (*batch[first], *free[first], *(axis for axis, _ in pairs))
    right = (*batch[second], *rest)
    places = (
        tuple(left.index(axis) for axis, _ in pairs),
        tuple(right.index(axis) for _, axis in pairs),
    )
    return left, right, (places, (plain(len(batch[0])),) * 2)


def _hidden(equation: Any, kinds: Sequence[Kind]) -> int:
    """Returns the cost of XLA's transposes for a product of the original arrays."""
    left, right = (math.prod(shape_of(atom)) for atom in equation.invars)
    if not any_own(kinds):
        return 0
    if not kinds[0].own:
        return 2 * right + math.prod(shape_of(equation.outvars[0]))
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    rank = rank_of(equation.invars[0])
    middle = sorted({*range(rank)} - {*batch, *contracted})
    return 0 if (*batch, *middle, *contracted) == plain(rank) else 2 * left
