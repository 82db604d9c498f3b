"""Plots of datasets of runs, schedules and gradient norms, as Matplotlib Axes.

Each function draws into the Axes that it is given, or into a new figure, and returns
them: `ax.figure.savefig("name.png")`. Dimensions that you do not name, such as the
seeds, are pooled, and the title says so.
"""

from stabjax.plot.answers import answer, marginal
from stabjax.plot.axes import panels
from stabjax.plot.maps import heatmap
from stabjax.plot.norms import gradient_norms
from stabjax.plot.ranges import rate_ranges
from stabjax.plot.runs import learning_curves, stable_fraction
from stabjax.plot.schedules import schedule_text, schedules
from stabjax.plot.trainability import trainability_map

__all__ = [
    "answer",
    "gradient_norms",
    "heatmap",
    "learning_curves",
    "marginal",
    "panels",
    "rate_ranges",
    "schedule_text",
    "schedules",
    "stable_fraction",
    "trainability_map",
]


def __getattr__(name: str) -> object:
    if name == "stable_share":
        raise AttributeError("stabjax.plot.stable_share is now plot.stable_fraction.")
    raise AttributeError(f"module 'stabjax.plot' has no attribute {name!r}")
