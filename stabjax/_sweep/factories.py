"""Routing axes to the functions that create the problem and the optimizer."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import optax

from stabjax._train.problem import Problem, is_problem

_WANTED = {
    "problem": "a Problem with init and loss, such as stabjax.problems.quadratic(), "
    "or a function that returns one",
    "make_optimizer": "a function that takes axes by name and returns an optimizer",
}


class Factories(NamedTuple):
    """The functions that create the problem and the optimizer of a trial."""

    problem: Problem | Callable[..., Problem]
    make_optimizer: Callable[..., optax.GradientTransformation]
    problem_axes: tuple[str, ...]  # empty if `problem` is not a function
    optimizer_axes: tuple[str, ...]

    def __call__(
        self, values: Mapping[str, Any]
    ) -> tuple[Problem, optax.GradientTransformation]:
        """Returns the problem and the optimizer of a trial."""
        problem = self.made_problem(values)
        taken = {name: values[name] for name in self.optimizer_axes}
        optimizer = self.make_optimizer(**taken)
        if not isinstance(optimizer, optax.GradientTransformation):
            raise TypeError(
                f"make_optimizer must return an optax.GradientTransformation, "
                f"got {_type_of(optimizer)}."
            )
        return problem, optimizer

    def made_problem(self, values: Mapping[str, Any]) -> Any:
        """Returns the problem of a trial."""
        problem: Any = self.problem
        if is_problem(problem):
            return problem
        problem = problem(**{name: values[name] for name in self.problem_axes})
        if not is_problem(problem):
            raise TypeError(
                f"problem must return a Problem with init and loss, "
                f"got {_type_of(problem)}."
            )
        return problem

    def functions(self) -> list[object]:
        """Returns the functions that are traced to create a program.

        A Problem is represented by its functions, because two problems with the same
        functions give the same program.
        """
        problem: Any = self.problem
        found: list[object] = [problem]
        if isinstance(problem, Problem):
            optional = [problem.evaluate, problem.batch]
            found = [problem.init, problem.loss]
            found += [function for function in optional if function is not None]
        return [*found, self.make_optimizer]


def route(problem: Any, make_optimizer: Any, axes: Collection[str]) -> Factories:
    """Assigns axes to factories and raises an error if an axis is not used."""
    names = [name for name in axes if name != "seed"]
    factories = Factories(
        problem,
        make_optimizer,
        () if is_problem(problem) else _taken("problem", problem, names),
        _taken("make_optimizer", make_optimizer, names),
    )
    for name in names:
        if name not in factories.problem_axes + factories.optimizer_axes:
            raise ValueError(
                f"axis {name!r} is not used: neither make_optimizer "
                f"({_parameters(make_optimizer)}) nor problem "
                f"({_parameters(problem)}) has a parameter with that name."
            )
    return factories


def name_of(value: Any) -> str:
    """Returns the name of a problem or factory for the dataset attributes."""
    metadata = getattr(value, "metadata", None)
    if isinstance(metadata, Mapping) and "name" in metadata:
        return str(metadata["name"])
    value = getattr(value, "func", value)  # unwraps functools.partial
    return str(getattr(value, "__name__", type(value).__name__))


def _taken(role: str, make: Any, axes: Collection[str]) -> tuple[str, ...]:
    """Checks the parameters of a factory and returns the axes that it accepts."""
    if not callable(make):
        shown = repr(make) if isinstance(make, str) else type(make).__name__
        raise TypeError(f"{role} must be {_WANTED[role]}, got {shown}.")
    parameters = inspect.signature(make).parameters
    for name, parameter in parameters.items():
        if parameter.kind not in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        ):
            raise TypeError(
                f"{role} must have only named parameters because axes are passed by "
                f"name, got {parameter}."
            )
        if parameter.default is parameter.empty and name not in axes:
            reason = (
                "seed is reserved for the random key"
                if name == "seed"
                else "no axis has that name"
            )
            raise ValueError(
                f"{role} has a parameter {name!r} without a default, and {reason}."
            )
    return tuple(name for name in axes if name in parameters)


def _parameters(factory: Any) -> str:
    if is_problem(factory):
        return "no function"
    return ", ".join(inspect.signature(factory).parameters) or "no parameters"


def _type_of(value: object) -> str:
    """Returns the name of a type, without the private names of JAX's arrays."""
    return "an array" if isinstance(value, jax.Array) else type(value).__name__
