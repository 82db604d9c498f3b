"""Converting modules of any library to pure functions."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen, nnx

from stabjax.problems.flax_modules import linen_model, nnx_model
from stabjax.problems.model import Model

_WANTED = (
    "module must be a Linen module, a function of nnx.Rngs that returns an NNX module "
    "such as lambda rngs: MLP(rngs=rngs), a function of a key that returns an Equinox "
    "module such as lambda key: MLP(key=key), or a pair of functions (init, apply)"
)


class _Signature(NamedTuple):
    names: frozenset[str]
    first: str


def model_of(module: Any, inputs: Any) -> Model:
    """Returns the init and apply functions of a module for the given inputs."""
    if isinstance(module, tuple | list):
        return _from_pair(module)
    if isinstance(module, linen.Module):
        return linen_model(module, inputs)
    if isinstance(module, type) and issubclass(module, linen.Module):
        raise TypeError(
            "module must be an instance of a Linen module, such as"
            f" {module.__name__}(...), got the class."
        )
    if isinstance(module, nnx.Module) or _is_equinox(module) or not callable(module):
        raise TypeError(f"{_WANTED}, got {_shown(module)}.")
    names, first = _signature(module)
    of_equinox = str(getattr(module, "__module__", "")).startswith("equinox")
    if isinstance(module, type) and "rngs" in names:
        # `rngs` is usually a keyword-only argument of NNX modules.
        return nnx_model(lambda rngs: module(rngs=rngs), inputs)
    of_key = "key" in names and (first == "key" or isinstance(module, type))
    if of_key or of_equinox:  # such as the function eqx.nn.make_with_state(...)
        from stabjax.problems.equinox_modules import equinox_model

        return equinox_model(lambda key: module(key=key), inputs)
    return nnx_model(module, inputs)


def _shown(module: Any) -> str:
    if isinstance(module, nnx.Module) or _is_equinox(module):
        return f"an instance of {type(module).__name__}, which fixes the initial values"
    return type(module).__name__


def _is_equinox(module: Any) -> bool:
    equinox = sys.modules.get("equinox")
    return equinox is not None and isinstance(module, equinox.Module)


def _signature(function: Callable[..., Any]) -> _Signature:
    """Returns the parameter names of a function."""
    if isinstance(function, type):
        start: Any = getattr(function, "__init__")  # noqa: B009
        function = functools.partial(start, None)
    try:
        names = [*inspect.signature(function).parameters]
    except (TypeError, ValueError):
        names = []
    return _Signature(frozenset(names), names[0] if names else "")


def _from_pair(pair: Any) -> Model:
    """Returns the model of a pair (init, apply), passing arguments by name."""
    if len(pair) != 2 or not all(map(callable, pair)):
        raise TypeError(f"{_WANTED}, got {pair!r:.60}.")
    init, apply = pair
    names = _signature(apply).names & {"state", "key", "train"}
    stateful = "state" in names

    def start(key: jax.Array) -> tuple[Any, Any]:
        found = init(key)
        if not stateful:
            return found, ()
        if type(found) is not tuple or len(found) != 2:
            raise TypeError(
                "the init function of module must return (params, state) because its "
                f"apply function has a parameter 'state', got a {type(found).__name__}."
            )
        return found

    def call(
        params: Any, state: Any, inputs: Any, key: jax.Array | None, train: bool
    ) -> tuple[Any, Any]:
        given = {"state": state, "key": key, "train": train}
        found = apply(params, inputs, **{name: given[name] for name in names})
        if not stateful:
            return found, ()
        if type(found) is not tuple or len(found) != 2:
            raise TypeError(
                "the apply function of module must return (outputs, state) because it "
                f"has a parameter 'state', got a {type(found).__name__}."
            )
        return found

    return Model(start, call, stateful)
