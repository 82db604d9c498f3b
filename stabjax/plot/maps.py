"""Maps over two hyperparameters, of cells or of points."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from stabjax.plot.axes import DECADES, STAR, legend_below, panels, scale
from stabjax.plot.cells import border_of, cells_of, with_gaps
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
    its equals. A space that is no grid is drawn as points.

    Args:
      dataset: what `sweep` returns.
      x: the dimension of the horizontal axis, or a coordinate along `trial`.
      y: the dimension of the vertical axis, or such a coordinate.
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
    data = variable_of(dataset, variable)
    ax = ax or panels(1)[0]
    if _are_points(data, x, y):
        median, star = _points(ax, data, x, y, limits)
    else:
        data = variable_of(dataset, variable, x, y)
        median, star = _cells(ax, data, x, y, limits)
    colors = ax.collections[0]
    if np.isfinite(median).any():
        bar: dict[str, Any] = {
            "label": label_of(data),
            "extend": _extend(median, colors),
        }
        shown = ax.figure.colorbar(colors, ax=ax, **bar)
        norm: Any = colors.norm
        if norm.vmax > 30 * norm.vmin:  # else there are too few decades
            shown.minorticks_off()
    ax.set_xlabel(label_of(dataset[x]))
    ax.set_ylabel(label_of(dataset[y]))
    _mark(ax, median, star)
    return ax


_Star = tuple[float, float] | None  # where the smallest value is


def _cells(
    ax: Axes, data: xr.DataArray, x: str, y: str, limits: tuple[float, float] | None
) -> tuple[Array, _Star]:
    """The cells of a grid, their medians, and the smallest."""
    median = np.median(pooled(data, y, x).astype(float), axis=-1)
    across, up = cells_of(data[x]), cells_of(data[y])
    diverged = np.isinf(median)
    finite = with_gaps(np.where(diverged, np.nan, median), across, up)
    grey = with_gaps(np.where(diverged, 1.0, np.nan), across, up)
    flags = with_gaps(np.where(np.isnan(median), np.nan, diverged), across, up)
    for values, style in (
        (finite, {"norm": _norm(median, limits), "cmap": "viridis"}),
        (grey, {"cmap": ListedColormap([_DIVERGED])}),
    ):
        ax.pcolormesh(across.edges, up.edges, values, rasterized=True, **style)
    border = list(border_of(flags, across, up))
    ax.add_collection(LineCollection(border, colors="black", linewidths=1.5))
    scale(ax, "x", across)
    scale(ax, "y", up)
    smallest = smallest_of(median)
    if smallest is None:
        return median, None
    row, column = smallest
    return median, (across.at[column], up.at[row])


def _are_points(data: xr.DataArray, *names: str) -> bool:
    """Whether these are values along one other dimension, such as `trial`."""
    return all(
        name not in data.dims and name in data.coords and data[name].dims == ("trial",)
        for name in names
    )


def _points(
    ax: Axes, data: xr.DataArray, x: str, y: str, limits: tuple[float, float] | None
) -> tuple[Array, _Star]:
    """The points of a space that is no grid, their medians, and the smallest."""
    median = np.median(pooled(data, "trial").astype(float), axis=-1)
    places = []
    for which, name in (("x", x), ("y", y)):
        values, position = np.unique(data[name].to_numpy(), return_inverse=True)
        cells = cells_of(xr.DataArray(values, dims=name))
        places.append(cells.at[position])
        scale(ax, which, cells)
    held, diverged = np.isfinite(median), np.isinf(median)
    size = float(np.clip(8000 / len(median), 9, 64))
    styles: list[tuple[Array, dict[str, Any]]] = [
        (held, {"c": median[held], "norm": _norm(median, limits), "cmap": "viridis"}),
        (diverged, {"c": _DIVERGED, "edgecolors": "black", "linewidths": 0.5}),
    ]
    for some, style in styles:
        ax.scatter(places[0][some], places[1][some], size, **style)
    smallest = smallest_of(median)
    if smallest is None:
        return median, None
    return median, (places[0][smallest], places[1][smallest])


def _mark(ax: Axes, median: Array, star: _Star) -> None:
    """A star on the smallest value, and a legend of what the colour bar lacks."""
    handles: list[Any] = []
    for some, color, label in (
        (np.isinf(median), _DIVERGED, "diverged"),
        (np.isnan(median), "white", "not run"),
    ):
        if some.any():
            handles.append(Patch(facecolor=color, edgecolor="black", label=label))
    if star is not None:
        ax.plot(*star, **STAR)
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
