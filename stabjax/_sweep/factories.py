"""Which axis goes where: by name, to the functions that make problem and optimizer."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import optax

from stabjax._train.problem import Problem


class Factory(NamedTuple):
    """A function and the axes it takes."""

    make: Callable[..., Any]
    takes: tuple[str, ...]

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Calls the function with its share of the values of a trial."""
        return self.make(**{name: values[name] for name in self.takes})


class Factories(NamedTuple):
    """What makes a trial out of its hyperparameters."""

    problem: Problem | Factory
    make_optimizer: Factory

    def __call__(
        self, values: Mapping[str, Any]
    ) -> tuple[Problem, optax.GradientTransformation]:
        """The problem and the optimizer of a trial."""
        problem = self.problem
        if isinstance(problem, Factory):
            problem = problem(values)
            if not is_problem(problem):
                raise TypeError(
                    f"problem must return a Problem with init and loss, "
                    f"got {type(problem).__name__}."
                )
        optimizer = self.make_optimizer(values)
        if not isinstance(optimizer, optax.GradientTransformation):
            raise TypeError(
                f"make_optimizer must return an optax.GradientTransformation, "
                f"got {type(optimizer).__name__}."
            )
        return problem, optimizer


def route(problem: Any, make_optimizer: Any, axes: Collection[str]) -> Factories:
    """Finds out which factory takes which axis, and that none is left over."""
    names = [name for name in axes if name != "seed"]
    factories = Factories(
        problem if is_problem(problem) else _factory("problem", problem, names),
        _factory("make_optimizer", make_optimizer, names),
    )
    taken = {n for f in factories if isinstance(f, Factory) for n in f.takes}
    for name in names:
        if name not in taken:
            raise ValueError(
                f"axis {name!r} goes nowhere: neither make_optimizer "
                f"({_parameters(make_optimizer)}) nor problem "
                f"({_parameters(problem)}) has a parameter of that name."
            )
    return factories


def is_problem(value: Any) -> bool:
    """Whether this can be trained: not the class of problems, but one of them."""
    ready = callable(getattr(value, "init", None)) and callable(
        getattr(value, "loss", None)
    )
    return ready and not isinstance(value, type)


def name_of(value: Any) -> str:
    """What the result calls a problem or a factory."""
    metadata = getattr(value, "metadata", None)
    if isinstance(metadata, Mapping) and "name" in metadata:
        return str(metadata["name"])
    value = getattr(value, "func", value)  # what a functools.partial stands for
    return str(getattr(value, "__name__", type(value).__name__))


def _factory(role: str, make: Any, axes: Collection[str]) -> Factory:
    wanted = {
        "problem": "a Problem with init and loss, such as "
        "stabjax.problems.quadratic(), or a function that makes one",
        "make_optimizer": "a function that takes axes by name and makes an optimizer",
    }[role]
    if not callable(make):
        raise TypeError(f"{role} must be {wanted}, got {_shown(make)}.")
    for name, parameter in inspect.signature(make).parameters.items():
        if parameter.kind not in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        ):
            raise TypeError(
                f"{role} must name each parameter it takes, so that axes can be given "
                f"to it by name: it has {parameter}."
            )
        if parameter.default is parameter.empty and name not in axes:
            reason = (
                "seed goes to the key alone" if name == "seed" else "no axis has it"
            )
            raise ValueError(
                f"{role} has a parameter {name!r} without a default, and {reason}."
            )
    parameters = inspect.signature(make).parameters
    return Factory(make, tuple(name for name in axes if name in parameters))


def _parameters(factory: Any) -> str:
    if is_problem(factory):
        return "no function"
    return ", ".join(inspect.signature(factory).parameters) or "no parameters"


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else type(value).__name__
