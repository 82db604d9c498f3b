"""Pictures of datasets: data and Axes in, Axes out; nothing global is touched.

Each function pools all dimensions that it is not told about, such as the seeds. A
picture is saved with ``ax.figure.savefig("name.png")``.
"""

from stabjax.plot.axes import panels
from stabjax.plot.maps import heatmap
from stabjax.plot.norms import gradient_norms
from stabjax.plot.ranges import rate_ranges
from stabjax.plot.runs import learning_curves, stable_share
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
    "stable_share",
    "trainability_map",
]
