"""Warnings about arguments that are valid but probably mistakes."""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from stabjax._sweep.axes import Axis
from stabjax._sweep.space import TRIAL, Space
from stabjax._sweep.warn import warn

_RATES = ("learning_rate", "lr", "peak_value", "rate")
_WARMUPS = ("warmup_steps", "num_warmup_steps")


def warn_about(space: Space, steps: int) -> None:
    """Warns about repeated values, negative rates and warmups beyond the last step."""
    for dimension in space.dimensions:
        for axis in dimension.axes:
            if not axis.is_static:
                _warn_about_values(axis, steps)
                if dimension.name != TRIAL:
                    _warn_about_repetition(axis)


@contextlib.contextmanager
def random_state_watched(
    generators: Callable[[], tuple[bytes, ...]],
) -> Iterator[None]:
    """Warns if the context draws random numbers from Python or NumPy.

    Args:
      generators: returns the states of the generators that the functions refer to.
    """
    before = _random_state(), generators()
    yield
    if (_random_state(), generators()) != before:
        warn(
            "the problem or the optimizer draws random numbers from Python or NumPy. "
            "They are drawn once, when the program is traced, and are the same in "
            "every step and every run: use jax.random with the key instead.",
            UserWarning,
        )


def _warn_about_values(axis: Axis, steps: int) -> None:
    values = np.asarray(axis.values)
    if axis.name in _RATES and (low := values.min()) < 0:
        warn(
            f"axis {axis.name!r} contains {low}: a negative learning rate maximizes "
            f"the loss.",
            UserWarning,
        )
    if axis.name in _WARMUPS and (high := values.max()) > steps:
        warn(
            f"axis {axis.name!r} contains {high}, which exceeds steps={steps}: the "
            f"run ends during its warmup.",
            UserWarning,
        )


def _warn_about_repetition(axis: Axis) -> None:
    values, counts = np.unique(np.asarray(axis.values), return_counts=True)
    if counts.max() > 1:
        warn(
            f"axis {axis.name!r} contains {values[counts.argmax()]} {counts.max()} "
            f"times: each copy is trained.",
            UserWarning,
        )


def _random_state() -> tuple[Any, ...]:
    known: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    return random.getstate(), known["state"]["key"].tobytes(), known["state"]["pos"]
