"""Matplotlib plots of sweep results, schedules and gradient norms.

Each function takes an optional Matplotlib Axes and returns it. If no Axes is given, a
new figure is created. Use `ax.figure.savefig("name.png")` to save it. Dimensions that
are not assigned to an axis, such as the seeds, are pooled and listed in the title.
"""

from stabjax.plot.axes import panels
from stabjax.plot.maps import heatmap
from stabjax.plot.norms import gradient_norms
from stabjax.plot.ranges import rate_ranges
from stabjax.plot.runs import learning_curves, stable_fraction
from stabjax.plot.schedules import schedule_text, schedules
from stabjax.plot.trainability import trainability_map

__all__ = [
    "gradient_norms",
    "heatmap",
    "learning_curves",
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
