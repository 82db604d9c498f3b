"""Maps over two hyperparameters."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from stabjax.plot.axes import DECADES, STAR, legend_below, panels, scale
from stabjax.plot.cells import Cells, border_of, cells_of, with_gaps
from stabjax.plot.data import Array, label_of, pooled, smallest_of, variable_of

_DIVERGED = "0.78"


def heatmap(
    dataset: xr.Dataset,
    *,
    x: str,
    y: str,
    variable: str = "final_loss",
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Map of a variable over two hyperparameters: the median of all other dimensions.

    Axes are logarithmic where the values are evenly spaced so, and an infinite value (a
    threshold that is switched off) has a strip of its own. Cells whose median run
    diverged are grey, with a line along their border; cells not run, or not all of
    whose runs are done, are white; a star marks the smallest value, in the middle of
    its equals.

    Args:
      dataset: what `sweep` returns.
      x: the dimension of the horizontal axis.
      y: the dimension of the vertical axis.
      variable: what the colours show, on a logarithmic scale if it is positive.
      limits: values of the first and the last colour; None takes them from the data,
        nine decades at most.
      ax: where to draw; None makes a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: if the dataset lacks the variable or a dimension.

    Example:
      >>> import optax, stabjax
      >>> runs = stabjax.sweep(
      ...     stabjax.problems.quadratic(),
      ...     lambda rate, decay: optax.sgd(rate, momentum=decay),
      ...     stabjax.grid(rate=[0.01, 0.1, 1.0], decay=[0.0, 0.9]), steps=10,
      ... )
      >>> stabjax.plot.heatmap(runs, x="rate", y="decay").get_xscale()
      'log'
    """
    data = variable_of(dataset, variable, x, y)
    ax = ax or panels(1)[0]
    median = np.median(pooled(data, y, x).astype(float), axis=-1)
    across, up = cells_of(dataset[x]), cells_of(dataset[y])
    colors = ax.pcolormesh(
        across.edges,
        up.edges,
        with_gaps(np.where(np.isfinite(median), median, np.nan), across, up),
        norm=_norm(median, limits),
        cmap="viridis",
        rasterized=True,
    )
    diverged = np.isinf(median)
    grey = with_gaps(np.where(diverged, 1.0, np.nan), across, up)
    ax.pcolormesh(
        across.edges, up.edges, grey, cmap=ListedColormap([_DIVERGED]), rasterized=True
    )
    flags = with_gaps(np.where(np.isnan(median), np.nan, diverged), across, up)
    border = list(border_of(flags, across, up))
    ax.add_collection(LineCollection(border, colors="black", linewidths=1.5))
    if np.isfinite(median).any():
        bar = {"label": label_of(data), "extend": _extend(median, colors)}
        ax.figure.colorbar(colors, ax=ax, **bar).minorticks_off()
    scale(ax, "x", across)
    scale(ax, "y", up)
    ax.set_xlabel(label_of(dataset[x]))
    ax.set_ylabel(label_of(dataset[y]))
    _mark(ax, median, across, up)
    return ax


def _mark(ax: Axes, median: Array, across: Cells, up: Cells) -> None:
    """A star on the smallest value, and a legend of what the colour bar lacks."""
    handles: list[Any] = []
    for some, color, label in (
        (np.isinf(median), _DIVERGED, "diverged"),
        (np.isnan(median), "white", "not run"),
    ):
        if some.any():
            handles.append(Patch(facecolor=color, edgecolor="black", label=label))
    if (smallest := smallest_of(median)) is not None:
        row, column = smallest
        ax.plot(across.at[column], up.at[row], **STAR)
        handles.append(Line2D([], [], label="smallest", **STAR))
    legend_below(ax, handles=handles, ncols=3)


def _norm(values: Array, limits: tuple[float, float] | None) -> Normalize:
    finite = values[np.isfinite(values)]
    if limits is None and (not (finite > 0).any() or (finite < 0).any()):
        return Normalize(*((finite.min(), finite.max()) if finite.size else (0, 1)))
    if limits is None:
        high = finite.max()
        limits = max(finite[finite > 0].min(), high * 10.0**-DECADES), high
    low, high = limits
    return LogNorm(low, high if high > low else 10 * low, clip=True)


def _extend(values: Array, colors: Any) -> str:
    """Whether values lie beyond the colours."""
    finite = values[np.isfinite(values)]
    low, high = colors.norm.vmin, colors.norm.vmax
    below = bool(finite.size) and low is not None and finite.min() < low
    above = bool(finite.size) and high is not None and finite.max() > high
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[
        below, above
    ]
