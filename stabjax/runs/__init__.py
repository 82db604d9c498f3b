"""Questions to a dataset of runs, each answered with an interval and its caveats.

What is stored (`load`), one run again (`rerun`), the best point (`best`), how many runs
are stable (`stable_fraction`); which value is best and how sure that is (`optimum`),
whether treatments differ (`compare`), how much a wrong rate costs (`sensitivity`), how
the best value moves with size (`scaling`), what matters (`importance`), what a
threshold does (`clipping`), and where to sweep next (`refine`).
"""

from stabjax._intervals import Estimate
from stabjax.runs.clipping import clipping
from stabjax.runs.comparison import Comparison, Difference, Treatment, compare
from stabjax.runs.fresh import retest
from stabjax.runs.laws import Scaling, scaling
from stabjax.runs.loading import load
from stabjax.runs.loss_curve import LossCurve, fit_loss_curve
from stabjax.runs.minimum import Optimum, optimum
from stabjax.runs.refinement import refine
from stabjax.runs.repetition import rerun
from stabjax.runs.selection import Best, best
from stabjax.runs.sensitivity import Sensitivity, sensitivity
from stabjax.runs.stability import stable_fraction
from stabjax.runs.variance import Effect, Importance, Marginal, importance

__all__ = [
    "Best",
    "Comparison",
    "Difference",
    "Effect",
    "Estimate",
    "Importance",
    "LossCurve",
    "Marginal",
    "Optimum",
    "Scaling",
    "Sensitivity",
    "Treatment",
    "best",
    "clipping",
    "compare",
    "fit_loss_curve",
    "importance",
    "load",
    "optimum",
    "refine",
    "rerun",
    "retest",
    "scaling",
    "sensitivity",
    "stable_fraction",
]
