"""Many trainings as one program: say what varies, get back a labelled dataset."""

from stabjax._sweep.engine import sweep
from stabjax._sweep.ranges import range_test, suggest_rate
from stabjax._sweep.space import grid, static
from stabjax._sweep.store import load
from stabjax._sweep.trial import train

__all__ = ["grid", "load", "range_test", "static", "suggest_rate", "sweep", "train"]
