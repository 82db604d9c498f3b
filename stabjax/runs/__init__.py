"""Analysis of sweep results, such as the best point or the stable fraction."""

from stabjax.runs.loading import load
from stabjax.runs.optimum import BestPoint, best
from stabjax.runs.repetition import rerun
from stabjax.runs.stability import stable_fraction

__all__ = ["BestPoint", "best", "load", "rerun", "stable_fraction"]
