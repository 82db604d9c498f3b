"""Stages of a loop over steps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.extend import core

from stabjax._sweep.lanes.equations import Inexpressible

# Operations of a step. Compilation takes about 5 ms for each: 12 s for 2,600.
_LARGEST = 1000

_Vectors = list[jax.Array]
# A step: constants, state and what trials share at the step -> new state.
Advance = Callable[[_Vectors, _Vectors, _Vectors], _Vectors]


class Stage(NamedTuple):
    """A range of steps of the loop."""

    advance: Advance
    first: int
    last: int  # exclusive

    def traced(
        self, fixed: _Vectors, state: _Vectors, tables: _Vectors
    ) -> core.ClosedJaxpr:
        """Returns the program of a step, which must be short."""
        rows = [jax.ShapeDtypeStruct((), table.dtype) for table in tables]
        program: core.ClosedJaxpr = jax.make_jaxpr(self.advance)(fixed, state, rows)
        if len(program.jaxpr.eqns) > _LARGEST:
            raise Inexpressible(f"a step of {len(program.jaxpr.eqns)} operations")
        return program
