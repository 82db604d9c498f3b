"""Matplotlib plots of sweep results, schedules and gradient norms.

Each function draws on the given Axes, or creates a new figure, and returns the Axes. To
save a plot, call `ax.figure.savefig("name.png")`. Numeric dimensions that are not
assigned to an axis, such as the seeds, are pooled and listed in the title. Categories
are not pooled in a new figure: each has its own line, row or panel.
"""

from stabjax.plot.answers import answer, marginal
from stabjax.plot.axes import panels
from stabjax.plot.curves import learning_curves
from stabjax.plot.maps import heatmap
from stabjax.plot.norms import gradient_norms
from stabjax.plot.ranges import rate_ranges
from stabjax.plot.schedules import schedule_text, schedules
from stabjax.plot.sensitivity import sensitivity, stable_fraction
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
    "sensitivity",
    "stable_fraction",
    "trainability_map",
]


def __getattr__(name: str) -> object:
    if name == "stable_share":
        raise AttributeError(
            "stabjax.plot.stable_share is now stabjax.plot.stable_fraction."
        )
    raise AttributeError(f"module 'stabjax.plot' has no attribute {name!r}")
