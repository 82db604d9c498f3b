"""A library-independent representation of networks as pure functions."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

# Argument names that select training or evaluation mode, with the value for training.
_MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
    "inference": False,
    "eval": False,
}


class Model(NamedTuple):
    """A network as two pure functions. A stateless network has the state `()`."""

    init: Callable[[jax.Array], tuple[Any, Any]]  # key -> params, state
    # params, state, inputs, key or None, training mode -> outputs, state
    apply: Callable[[Any, Any, Any, Any, bool], tuple[Any, Any]]
    has_state: bool


def mode_of(module: object, train: bool) -> dict[str, Any]:
    """Returns the arguments that select training or evaluation mode of a module.

    If the module has an attribute with the same name that is not None, the attribute
    takes precedence.
    """
    call: Any = type(module).__call__
    return {
        name: value is train
        for name, value in _MODES.items()
        if name in inspect.signature(call).parameters
        and getattr(module, name, None) is None
    }
