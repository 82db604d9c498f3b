"""Inspecting and evaluating the operations of a jaxpr."""

from collections.abc import Sequence
from typing import Any


def programs(params: dict[str, Any]) -> list[Any]:
    """Returns the programs among the parameters of a primitive."""
    parts = [p for v in params.values() for p in (v if is_sequence(v) else (v,))]
    return [getattr(part, "jaxpr", part) for part in parts if hasattr(part, "eqns")]


def is_sequence(value: Any) -> bool:
    """Returns whether this is a tuple or a list."""
    return isinstance(value, tuple | list)


def bound(primitive: Any, params: dict[str, Any], values: Sequence[Any]) -> list[Any]:
    """Applies a primitive. Up to JAX 0.9, functions are not among its parameters."""
    given, functions = primitive.get_bind_params(params), ()
    if isinstance(given, tuple):
        functions, given = given
    found = primitive.bind(*functions, *values, **given)
    return [*found] if primitive.multiple_results else [found]
