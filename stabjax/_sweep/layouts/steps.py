"""How a single operation is evaluated on arrays with other orders of axes."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from stabjax._train.jaxprs import bound

Order = tuple[int, ...]  # the original axis at each axis of an array
Apply = Callable[[list[Any]], Sequence[Any]]


class Kind(NamedTuple):
    """The order of an array, and whether the array differs between trials."""

    order: Order
    own: bool

    @property
    def is_plain(self) -> bool:
        """Returns whether the axes are in their original order."""
        return self.order == plain(len(self.order))


class Cost(NamedTuple):
    """Numbers of transposed elements."""

    plain: int = 0  # that XLA transposes in the original program
    moved: int = 0  # that are transposed instead

    def plus(self, other: "Cost") -> "Cost":
        """Returns the sum of two costs."""
        return Cost(self.plain + other.plain, self.moved + other.moved)

    def times(self, count: int) -> "Cost":
        """Returns the cost of several iterations."""
        return Cost(count * self.plain, count * self.moved)


class Loop(NamedTuple):
    """A loop: the elements and shapes of its state, and the cost of an iteration."""

    size: int = 0
    cost: Cost = Cost()
    shapes: tuple[tuple[int, ...], ...] = ()

    def holds_state_of(self, other: "Loop") -> bool:
        """Returns whether the state contains that of another loop."""
        count = len(other.shapes)
        places = range(len(self.shapes) - count + 1)
        return any(self.shapes[k : k + count] == other.shapes for k in places)


class Step(NamedTuple):
    """An operation and its cost.

    Attributes:
      inputs: the orders of the arrays that `apply` takes.
      outputs: the kinds of the arrays that `apply` returns.
      apply: evaluates the operation.
      cost: the cost apart from that of the orders of the inputs.
      loop: the loop with the largest state in the operation, such as the training loop.
        If it is a loop over the same state in another one, the inner loop.
    """

    inputs: list[Order]
    outputs: list[Kind]
    apply: Apply
    cost: Cost = Cost()
    loop: Loop = Loop()


def plain(rank: int) -> Order:
    """Returns the original order."""
    return tuple(range(rank))


def shape_of(atom: Any) -> tuple[int, ...]:
    """Returns the shape of a variable or literal, which is empty for a token."""
    return tuple(getattr(atom.aval, "shape", ()))


def rank_of(atom: Any) -> int:
    """Returns the number of axes of a variable or literal."""
    return len(shape_of(atom))


def any_own(kinds: Iterable[Kind]) -> bool:
    """Returns whether one of the arrays differs between trials."""
    return any(kind.own for kind in kinds)


def renumbered(axes: Sequence[int]) -> Order:
    """Numbers axes from 0 without gaps."""
    rest = sorted(axes)
    return tuple(rest.index(axis) for axis in axes)


def unchanged(equation: Any, kinds: Sequence[Kind]) -> Step:
    """Evaluates any operation on arrays in their original order."""
    own = any_own(kinds)
    return Step(
        [plain(len(kind.order)) for kind in kinds],
        [Kind(plain(rank_of(variable)), own) for variable in equation.outvars],
        lambda values: bound(equation.primitive, equation.params, values),
    )


def changed(
    equation: Any,
    kinds: Sequence[Kind],
    inputs: list[Order],
    output: Sequence[int],
    **params: Any,
) -> Step:
    """Evaluates an operation with one output and other parameters."""
    params = {**equation.params, **params}
    return Step(
        inputs,
        [Kind(tuple(output), any_own(kinds))],
        lambda values: bound(equation.primitive, params, values),
    )


def distance(
    atoms: Sequence[Any], kinds: Sequence[Kind], orders: Sequence[Order]
) -> int:
    """Returns the cost of transposing arrays to the given orders.

    Arrays that all trials share cost nothing, because they are transposed only once.
    XLA:CPU copies rows if the last axis stays the same, and single elements otherwise.
    """
    cost = 0
    for atom, kind, order in zip(atoms, kinds, orders, strict=True):
        shape = shape_of(atom)
        old, new = ([a for a in o if shape[a] > 1] for o in (kind.order, order))
        if kind.own and old != new:
            cost += math.prod(shape) * (1 if old[-1] == new[-1] else 2)
    return cost
