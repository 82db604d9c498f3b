"""Sweeps that train many runs in one compiled program."""

from stabjax._sweep.axes import static
from stabjax._sweep.engine import sweep
from stabjax._sweep.halving import successive_halving
from stabjax._sweep.space import Space, grid, sample, zipped

__all__ = [
    "Space",
    "grid",
    "sample",
    "static",
    "successive_halving",
    "sweep",
    "zipped",
]
