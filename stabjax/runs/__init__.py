"""Questions to a dataset of runs: what is best, what is stable, one run again."""

from stabjax.runs.loading import load
from stabjax.runs.optimum import best
from stabjax.runs.repetition import rerun
from stabjax.runs.stability import stable_fraction

__all__ = ["best", "load", "rerun", "stable_fraction"]
