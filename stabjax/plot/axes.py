"""Axes, their scales, and the styles of what is drawn in them."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from stabjax.plot.cells import Cells

# Okabe and Ito's colours, which the colour-blind can tell apart, and lines for print.
_COLORS = ("#D55E00", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", (0, (5, 1)), ":", (0, (1, 1)), (0, (3, 1, 1, 1)))
DECADES = 9  # of losses that a picture shows below the largest


def panels(columns: int, rows: int = 1, *, width: float = 4.4) -> list[Axes]:
    """Axes side by side in one new figure, without pyplot.

    Args:
      columns: number of panels in a row.
      rows: number of rows.
      width: of a panel, in inches.

    Returns:
      The axes, row by row.

    Example:
      >>> import stabjax
      >>> left, right = stabjax.plot.panels(2)
      >>> left.figure is right.figure
      True
    """
    size = (columns * width, rows * 0.8 * width)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    return list(figure.subplots(rows, columns, squeeze=False).flat)


def scale(ax: Axes, which: str, cells: Cells) -> None:
    """Makes an axis logarithmic or not, and labels what is no finite number."""
    axis = getattr(ax, f"{which}axis")
    if cells.log:
        logarithmic(ax, which, cells.edges[-1] / cells.edges[0])
    if cells.labels is not None:
        axis.set_major_locator(FixedLocator(list(cells.at)))
        axis.set_major_formatter(FixedFormatter(cells.labels))
    if cells.gap is not None:
        low, high = cells.edges[0], cells.edges[cells.gap]
        found = axis.get_major_locator().tick_values(low, high)
        ticks = [t for t in found if low <= t <= high]
        if len(ticks) < 2:  # less than a decade
            ticks = list(cells.at[[0, cells.gap - 1]][: cells.gap])
        axis.set_major_locator(FixedLocator([*ticks, cells.at[-1]]))
        axis.set_major_formatter(FixedFormatter([*map(_number, ticks), r"$\infty$"]))
        axis.set_minor_locator(NullLocator())


def logarithmic(ax: Axes, which: str, ratio: float) -> None:
    """A logarithmic axis; over some decades, ticks between them take long to draw."""
    ax.set(**{f"{which}scale": "log"})
    if ratio > 1e2:
        getattr(ax, f"{which}axis").set_minor_locator(NullLocator())


def _number(value: float) -> str:
    decade = np.log10(value) if value > 0 else np.nan
    if np.isclose(decade, np.round(decade)):
        return f"$10^{{{round(decade)}}}$"
    return f"{value:.2g}"


def styles() -> Iterator[dict[str, Any]]:
    """Colours and lines, again and again."""
    for color, line in itertools.cycle(zip(_COLORS, _LINES, strict=True)):
        yield {"color": color, "linestyle": line, "linewidth": 1.5}


def log_limits(values: np.ndarray[Any, Any]) -> tuple[float, float] | None:
    """Ends of a logarithmic axis; None where nothing is positive."""
    shown = values[np.isfinite(values) & (values > 0)]
    if not shown.size or (values < 0).any():
        return None
    high = float(shown.max())
    return max(float(shown.min()), high * 10.0**-DECADES) / 1.5, high * 1.5
