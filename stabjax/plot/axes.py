"""Panels, axis scales, legends and curve styles."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import (
    AutoLocator,
    FixedFormatter,
    FixedLocator,
    LogLocator,
    NullLocator,
    StrMethodFormatter,
)
from matplotlib.transforms import ScaledTranslation

from stabjax.plot.cells import Cells

# Okabe and Ito's palette is distinguishable for color-blind readers. The line styles
# distinguish curves in black-and-white print.
_COLORS = ("#D55E00", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", (0, (5, 1)), ":", (0, (1, 1)), (0, (3, 1, 1, 1)))
_LETTER = 6.0  # width of a letter, in points
_HANDLE = 40.0  # width of a legend's line and of the space between columns
_LINE = 14.0  # height of a line of text, in points
DECADES = 9  # maximum range of losses in a plot
MANY = len(_COLORS)  # if there are more curves, they are drawn in shades
STAR: dict[str, Any] = {
    "marker": "*",
    "ms": 13,
    "mfc": "white",
    "mec": "black",
    "ls": "none",
}


def panels(columns: int, rows: int = 1, *, width: float = 4.4) -> list[Axes]:
    """Creates a figure with a grid of Axes.

    Args:
      columns: number of columns, >= 1.
      rows: number of rows, >= 1.
      width: width of each panel in inches, > 0.

    Returns:
      A list of Matplotlib Axes, in row-major order.

    Raises:
      ValueError: If `columns` or `rows` is not positive, or `width` is negative.

    Example:
      >>> import stabjax
      >>> left, right = stabjax.plot.panels(2)
      >>> left.figure is right.figure
      True
    """
    # pyplot would keep a global reference to every figure, which would leak memory.
    size = (columns * width, rows * 0.8 * width)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    return list(figure.subplots(rows, columns, squeeze=False).flat)


def scale(ax: Axes, which: str, cells: Cells) -> None:
    """Sets a logarithmic or linear scale and adds tick labels for infinite values."""
    axis = getattr(ax, f"{which}axis")
    if cells.log:
        logarithmic(ax, which, cells.edges[-1] / cells.edges[0])
    if cells.labels is not None:
        axis.set_major_locator(FixedLocator(list(cells.at)))
        axis.set_major_formatter(FixedFormatter(cells.labels))
        # Horizontal labels would overlap.
        if which == "x" and len("  ".join(cells.labels)) > 40:
            ax.tick_params("x", labelrotation=25)
            for text in ax.get_xticklabels():
                text.set(ha="right", rotation_mode="anchor")
    if cells.gap is not None:
        low, high = cells.edges[0], cells.edges[cells.gap]
        ticks = axis.get_major_locator().tick_values(low, high)
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) < 2:  # the values span less than a decade
            ticks = list(cells.at[[0, cells.gap - 1]][: cells.gap])
        axis.set_major_locator(FixedLocator([*ticks, cells.at[-1]]))
        axis.set_major_formatter(FixedFormatter([*map(_number, ticks), r"$\infty$"]))
        axis.set_minor_locator(NullLocator())


def logarithmic(ax: Axes, which: str, ratio: float) -> None:
    """Sets a logarithmic scale with a small number of ticks."""
    ax.set(**{f"{which}scale": "log"})
    axis = getattr(ax, f"{which}axis")
    axis.set_minor_locator(NullLocator())  # minor ticks are slow to draw
    if ratio <= 1e2:
        locator = AutoLocator() if ratio < 10 else LogLocator(subs=(1, 2, 5))
        axis.set_major_locator(locator)
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _number(value: float) -> str:
    decade = np.log10(value) if value > 0 else np.nan
    if np.isclose(decade, np.round(decade)):
        return f"$10^{{{round(decade)}}}$"
    return f"{value:.2g}"


def styles() -> Iterator[dict[str, Any]]:
    """Yields curve styles; the line style changes when the colors are exhausted."""
    for number in itertools.count():
        color = _COLORS[number % MANY]
        # The offset changes the line style in each pass through the palette.
        line = _LINES[(number + number // MANY) % MANY]
        yield {"color": color, "linestyle": line, "linewidth": 1.5}


def shades(number: int) -> Iterator[dict[str, Any]]:
    """Yields colors for an ordered set of curves, from dark to light."""
    for color in colormaps["viridis"](np.linspace(0.0, 0.87, number)):
        yield {"color": to_hex(color), "linestyle": "-", "linewidth": 1.2}


def draw_target(ax: Axes, target: float) -> None:
    """Draws a horizontal line at the target, with a label for the legend."""
    ax.axhline(target, color="0.35", lw=1.0, ls=(0, (4, 2)), label=f"{target:.3g}")
    low, high = ax.get_ylim()
    if ax.get_yscale() == "linear" or target > 0:
        ax.set_ylim(min(low, target), max(high, target))


def legend_below(ax: Axes, *, columns: int = 3, **options: Any) -> None:
    """Draws a legend under the label of the horizontal axis, in columns that fit."""
    drop = max((_height(text) for text in ax.get_xticklabels()), default=_LINE)
    points = ScaledTranslation(0.0, -(drop + _LINE + 4) / 72, ax.figure.dpi_scale_trans)
    ax.legend(
        frameon=False,
        fontsize="small",
        columnspacing=1.2,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=ax.transAxes + points,
        ncols=_columns(ax, columns, options.get("handles")),
        **options,
    )


def _columns(ax: Axes, most: int, handles: list[Artist] | None) -> int:
    """Returns how many columns of a legend fit under a panel."""
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    labels = [str(handle.get_label()) for handle in handles]
    widest = max(map(len, labels), default=0)
    fitting = int(_width(ax) // (0.85 * _LETTER * widest + _HANDLE))
    columns = max(1, min(most, fitting))
    # Four entries form two rows of two instead of a row of three and a single one.
    return 2 if len(labels) == 4 and columns == 3 else columns


def _width(ax: Axes) -> float:
    """Returns the width of the figure that belongs to a panel, in points."""
    spec = ax.get_subplotspec()
    panels_in_row = spec.get_gridspec().ncols if spec else 1
    figure: Any = ax.figure
    return float(72 * figure.get_size_inches()[0] / panels_in_row)


def _height(text: Text) -> float:
    """Returns the height of a possibly rotated tick label, in points."""
    slope = math.sin(math.radians(text.get_rotation()))
    return _LINE + slope * _LETTER * len(text.get_text())


def log_limits(values: np.ndarray) -> tuple[float, float] | None:
    """Returns the limits for a log scale, or None if there are no positive values."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size or (values < 0).any():
        return None
    high = float(positive.max())
    return max(float(positive.min()), high * 10.0**-DECADES) / 1.5, high * 1.5
