"""The metadata of the problems in a search space."""

from collections.abc import Callable
from typing import Any

import optax

from stabjax._sweep.factories import is_problem, route
from stabjax._sweep.space import Space
from stabjax._train.problem import Problem


def first_problem(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    space: Space,
) -> Any:
    """Returns the problem, or the one of the first point of the space.

    Raises a ValueError if the static values of the space lead to epochs of different
    lengths.
    """
    if is_problem(problem) or not isinstance(space, Space):
        return problem
    factories = route(problem, make_optimizer, [axis.name for axis in space.axes])
    numbers = {name: values[0] for name, values in space.numbers().items()}
    found = [
        factories.made_problem({**numbers, **given}) for given, _ in space.groups()
    ]
    lengths = {made.metadata.get("steps_per_epoch") for made in found}
    if len(lengths) > 1:
        raise ValueError(
            f"epochs must have the same number of steps in all problems, got "
            f"{', '.join(map(str, sorted(lengths, key=str)))}. Use a number of steps."
        )
    return found[0]
