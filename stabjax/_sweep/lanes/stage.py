"""Stages of a loop over steps."""

from collections.abc import Callable
from typing import NamedTuple

import jax

_Vectors = list[jax.Array]
# A step: constants, state and what trials share at the step -> new state.
Advance = Callable[[_Vectors, _Vectors, _Vectors], _Vectors]


class Stage(NamedTuple):
    """A part of the loop."""

    advance: Advance
    first: int
    last: int  # not included
