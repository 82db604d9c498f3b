"""Analysis of sweep results, such as the best point or the stable fraction."""

from stabjax._intervals import Interval
from stabjax.runs.fresh import retest
from stabjax.runs.loading import load
from stabjax.runs.loss_curve import LossCurve, fit_loss_curve
from stabjax.runs.optimum import Best, best
from stabjax.runs.repetition import rerun
from stabjax.runs.stability import stable_fraction

__all__ = [
    "Best",
    "Interval",
    "LossCurve",
    "best",
    "fit_loss_curve",
    "load",
    "rerun",
    "retest",
    "stable_fraction",
]
