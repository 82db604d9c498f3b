"""Warnings about what is allowed and hardly meant."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from stabjax._sweep.axes import Axis
from stabjax._sweep.space import TRIAL, Space
from stabjax._sweep.warn import warn

_RATES = ("learning_rate", "lr", "peak_value", "rate")
_WARMUPS = ("warmup_steps", "num_warmup_steps")


def warn_about(space: Space, steps: int) -> None:
    """Warns about values that are repeated, or that no run of these steps can use."""
    for dimension in space.dimensions:
        for axis in dimension.axes:
            if not axis.is_static:
                _warn_about_values(axis, steps)
                if dimension.name != TRIAL:
                    _warn_about_repetition(axis)


@contextlib.contextmanager
def random_state_watched() -> Iterator[None]:
    """Warns if Python's or NumPy's random numbers are drawn inside."""
    before = _random_state()
    yield
    if _random_state() != before:
        warn(
            "the problem or the optimizer draws random numbers of Python or NumPy. "
            "They are drawn once, when the program is traced, and are the same in "
            "every step and every run: use jax.random with the key instead.",
            UserWarning,
        )


def _warn_about_values(axis: Axis, steps: int) -> None:
    values = np.asarray(axis.values)
    if axis.name in _RATES and (low := values.min()) < 0:
        warn(
            f"axis {axis.name!r} holds {low}: a negative learning rate maximizes the "
            f"loss.",
            UserWarning,
        )
    if axis.name in _WARMUPS and (high := values.max()) > steps:
        warn(
            f"axis {axis.name!r} holds {high}, which is beyond steps={steps}: such a "
            f"run ends before its warm-up.",
            UserWarning,
        )


def _warn_about_repetition(axis: Axis) -> None:
    values, counts = np.unique(np.asarray(axis.values), return_counts=True)
    if counts.max() > 1:
        warn(
            f"axis {axis.name!r} holds {values[counts.argmax()]} {counts.max()} times: "
            f"each is trained.",
            UserWarning,
        )


def _random_state() -> tuple[Any, ...]:
    known: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    return random.getstate(), known["state"]["key"].tobytes(), known["state"]["pos"]
