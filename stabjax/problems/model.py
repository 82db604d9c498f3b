"""What a network is to a problem: two pure functions."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

# Names that switch a module between training and evaluation, and their value for
# training.
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
    """A network as pure functions; without state, its state is `()`."""

    init: Callable[[jax.Array], tuple[Any, Any]]  # key -> params, state
    # params, state, inputs, key or None, whether it trains -> outputs, state
    apply: Callable[[Any, Any, Any, Any, bool], tuple[Any, Any]]
    has_state: bool


def mode_of(module: object, train: bool) -> dict[str, Any]:
    """Returns the arguments that switch a module to training or to evaluation.

    An attribute of the same name that is set decides by itself.
    """
    call: Any = type(module).__call__
    return {
        name: value is train
        for name, value in _MODES.items()
        if name in inspect.signature(call).parameters
        and getattr(module, name, None) is None
    }
