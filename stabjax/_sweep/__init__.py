"""Many trainings as one program: say what varies, get back a labelled dataset."""

from stabjax._sweep.axes import static
from stabjax._sweep.engine import sweep
from stabjax._sweep.halving import successive_halving
from stabjax._sweep.ranges import range_test, suggest_rate
from stabjax._sweep.repetition import rerun
from stabjax._sweep.runs import best, stable_fraction
from stabjax._sweep.space import grid, sample, zipped
from stabjax._sweep.store import load
from stabjax._train.trial import train

__all__ = [
    "best",
    "grid",
    "load",
    "range_test",
    "rerun",
    "sample",
    "stable_fraction",
    "static",
    "successive_halving",
    "suggest_rate",
    "sweep",
    "train",
    "zipped",
]
