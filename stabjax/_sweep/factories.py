"""Routing axes to the functions that create the problem and the optimizer."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import optax

from stabjax._arguments import suggestion
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
    found = {
        "problem": {} if is_problem(problem) else _parameters_of("problem", problem),
        "make_optimizer": _parameters_of("make_optimizer", make_optimizer),
    }
    taken = {role: tuple(n for n in names if n in found[role]) for role in found}
    missing = [
        _without_axis(role, name)
        for role, parameters in found.items()
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name not in names
    ]
    for name in names:
        if name not in taken["problem"] + taken["make_optimizer"]:
            known = [*found["make_optimizer"], *found["problem"]]
            unused = (
                f"axis {name!r} is not used: neither make_optimizer "
                f"({_parameters(make_optimizer)}) nor problem "
                f"({_parameters(problem)}) has a parameter with that name."
                f"{suggestion(name, known)}"
            )
            raise ValueError(" ".join([unused, *missing[:1]]))
    if missing:
        raise ValueError(missing[0])
    return Factories(problem, make_optimizer, *taken.values())


def name_of(value: Any) -> str:
    """Returns the name of a problem or factory for the dataset attributes."""
    metadata = getattr(value, "metadata", None)
    if isinstance(metadata, Mapping) and "name" in metadata:
        return str(metadata["name"])
    value = getattr(value, "func", value)  # unwraps functools.partial
    return str(getattr(value, "__name__", type(value).__name__))


def _parameters_of(role: str, make: Any) -> Mapping[str, inspect.Parameter]:
    """Returns the parameters of a factory, which must be named."""
    if not callable(make):
        shown = repr(make) if isinstance(make, str) else type(make).__name__
        raise TypeError(f"{role} must be {_WANTED[role]}, got {shown}.")
    parameters = inspect.signature(make).parameters
    for parameter in parameters.values():
        if parameter.kind not in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        ):
            raise TypeError(
                f"{role} must have only named parameters because axes are passed by "
                f"name, got {parameter}."
            )
    return parameters


def _without_axis(role: str, name: str) -> str:
    reason = "no axis has that name"
    if name == "seed":
        reason = "seed is reserved for the random key"
    return f"{role} has a parameter {name!r} without a default, and {reason}."


def _parameters(factory: Any) -> str:
    if is_problem(factory):
        return "no function"
    return ", ".join(inspect.signature(factory).parameters) or "no parameters"


def _type_of(value: object) -> str:
    """Returns the name of a type, without the private names of JAX's arrays."""
    return "an array" if isinstance(value, jax.Array) else type(value).__name__
