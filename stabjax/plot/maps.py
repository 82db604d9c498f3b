"""Heat maps over two hyperparameters, for grids and random samples."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from stabjax._outcomes import best_of, is_maximized, scores_of
from stabjax.plot.axes import DECADES, STAR, legend_below, panels, scale
from stabjax.plot.cells import border_of, cells_of, infinity_last, with_gaps
from stabjax.plot.data import (
    categories_of,
    label_of,
    name_pooled,
    pooled,
    success_in_words,
    variable_of,
)
from stabjax.plot.facets import in_panels

_DIVERGED = "0.78"
_TARGET: dict[str, Any] = {"colors": "#D55E00", "linewidths": 1.8}
_Limits = tuple[float, float] | None
# The horizontal and vertical positions of the values.
_Places = tuple[np.ndarray, ...]


def heatmap(
    dataset: xr.Dataset,
    *,
    x: str,
    y: str,
    variable: str = "final_loss",
    facet: str | None = None,
    target: float | None = None,
    maximize: bool | None = None,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plots a map of a variable over two hyperparameters.

    The colors show the median over all other numeric dimensions. An axis is logarithmic
    if its values are logarithmically spaced. An infinite value, such as a disabled
    threshold, is drawn in a separate strip at the end of the axis. Cells with a
    diverged median run are gray and outlined. Cells with missing runs are white. A star
    marks the best value, or the middle one of several equal values. Random samples,
    whose axes vary along `trial`, are drawn as points.

    Categorical dimensions (strings and booleans) are not pooled. Each combination of
    their values has its own panel, with the same color scale.

    Args:
      dataset: a dataset returned by `sweep`.
      x: dimension for the horizontal axis, or a coordinate along `trial`.
      y: dimension for the vertical axis, or a coordinate along `trial`.
      variable: variable shown by the colors, on a logarithmic scale if it is positive.
      facet: dimension with a panel for each value.
      target: if given, a line encloses the cells whose median run reaches this value.
      maximize: whether larger values are better, as for an accuracy. Defaults to the
        problem's metadata, or False if it is not specified there.
      limits: values of the first and last colors. By default, they are determined from
        the data and span at most nine decades.
      ax: Matplotlib Axes to draw on. If given, all categories are pooled in one panel.
        Defaults to a new figure.

    Returns:
      The Matplotlib Axes, or those of the first panel.

    Raises:
      ValueError: If the dataset does not have the variable or dimension, or if the
        figure would need more than 24 panels.

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
    variable_of(dataset, variable, facet=facet)
    larger = is_maximized(dataset, variable, maximize)
    data = scores_of(infinity_last(dataset, x, y), variable, larger)
    points = _are_points(data, x, y)
    shown = ["trial"] if points else [y, x]
    if not points:
        variable_of(dataset, variable, x=x, y=y)
    facets = [*([facet] if facet else []), *categories_of(data, x, y, facet)]
    if ax is None and facets:
        norm = _norm(_medians(data, *facets, *shown), limits)
        if norm.vmin is not None and norm.vmax is not None:
            limits = norm.vmin, norm.vmax
        return in_panels(
            dataset,
            facets,
            heatmap,
            x=x,
            y=y,
            limits=limits,
            variable=variable,
            target=target,
            maximize=larger,
        )
    ax = ax or panels(1)[0]
    median = _medians(data, *shown)
    draw = _draw_points if points else _draw_cells
    places = draw(ax, data, median, (x, y), limits)
    if target is not None and not points:
        reached = median >= target if larger else median <= target
        _outline(ax, np.where(np.isnan(median), np.nan, reached), data[x], data[y])
    name_pooled(ax, "median", data, *shown)
    if np.isfinite(median).any():
        _add_colorbar(ax, median, label_of(dataset[variable]))
    ax.set_xlabel(label_of(data[x]))
    ax.set_ylabel(label_of(data[y]))
    _mark_best(ax, median, places, larger, None if points else target)
    return ax


def _medians(data: xr.DataArray, *dims: str) -> np.ndarray:
    # Not `nanmedian`, so that a cell with missing runs is NaN.
    found: np.ndarray = np.median(pooled(data, *dims), axis=-1)
    return found


def _draw_cells(
    ax: Axes,
    data: xr.DataArray,
    median: np.ndarray,
    names: tuple[str, str],
    limits: _Limits,
) -> _Places:
    """Draws the cells of a grid and returns the positions of rows and columns."""
    across, up = (cells_of(data[name]) for name in names)
    diverged = np.isinf(median)
    finite = with_gaps(np.where(diverged, np.nan, median), across, up)
    gray = with_gaps(np.where(diverged, 1.0, np.nan), across, up)
    flags = with_gaps(np.where(np.isnan(median), np.nan, diverged), across, up)
    for values, cmap, norm in (
        (finite, "viridis", _norm(median, limits)),
        (gray, ListedColormap([_DIVERGED]), None),
    ):
        # Rasterized because a vector file would contain a polygon for each cell.
        mesh = (across.edges, up.edges, values)
        ax.pcolormesh(*mesh, cmap=cmap, norm=norm, rasterized=True)
    border = list(border_of(flags, across, up))
    ax.add_collection(LineCollection(border, colors="black", linewidths=1.5))
    scale(ax, "x", across)
    scale(ax, "y", up)
    grid: _Places = tuple(np.meshgrid(across.at, up.at))
    return grid


def _outline(ax: Axes, reached: np.ndarray, x: xr.DataArray, y: xr.DataArray) -> None:
    """Draws the border between cells that reach a target and cells that do not."""
    across, up = cells_of(x), cells_of(y)
    border = list(border_of(with_gaps(reached, across, up), across, up))
    ax.add_collection(LineCollection(border, **_TARGET))


def _are_points(data: xr.DataArray, *names: str) -> bool:
    """Returns whether the names are coordinates along `trial`."""
    return all(
        name not in data.dims and name in data.coords and data[name].dims == ("trial",)
        for name in names
    )


def _draw_points(
    ax: Axes,
    data: xr.DataArray,
    median: np.ndarray,
    names: tuple[str, str],
    limits: _Limits,
) -> _Places:
    """Draws a point for each trial and returns the positions of the points."""
    places = []
    for which, name in zip("xy", names, strict=True):
        values, position = np.unique(data[name].to_numpy(), return_inverse=True)
        cells = cells_of(xr.DataArray(values, dims=name))
        places.append(cells.at[position])
        scale(ax, which, cells)
    finite, diverged = np.isfinite(median), np.isinf(median)
    # Points shrink as their number grows, to limit overlap.
    size = float(np.clip(8000 / len(median), 9, 64))
    x, y = places
    norm = _norm(median, limits)
    ax.scatter(x[finite], y[finite], size, c=median[finite], norm=norm, cmap="viridis")
    ax.scatter(
        x[diverged], y[diverged], size, c=_DIVERGED, edgecolors="black", linewidths=0.5
    )
    return x, y


def _add_colorbar(ax: Axes, median: np.ndarray, label: str) -> None:
    colors: Any = ax.collections[0]
    bar = ax.figure.colorbar(colors, ax=ax, label=label, extend=_extend(median, colors))
    # Keeps the ticks between decades if the scale covers too few decades.
    if colors.norm.vmax > 30 * colors.norm.vmin:
        bar.minorticks_off()


def _mark_best(
    ax: Axes,
    median: np.ndarray,
    places: _Places,
    maximize: bool,
    target: float | None,
) -> None:
    """Marks the best value with a star and adds a legend for the other colors."""
    handles: list[Any] = []
    for some, color, label in (
        (np.isinf(median), _DIVERGED, "diverged"),
        (np.isnan(median), "white", "not run"),
    ):
        if some.any():
            handles.append(Patch(facecolor=color, edgecolor="black", label=label))
    best = best_of(median, maximize)
    if best is not None:
        ax.plot(*(at[best] for at in places), **STAR)
        label = "largest" if maximize else "smallest"
        handles.append(Line2D([], [], label=label, **STAR))
    if target is not None:
        label = success_in_words(target, maximize)
        handles.append(Line2D([], [], color=_TARGET["colors"], label=label))
    legend_below(ax, handles=handles)


def _norm(values: np.ndarray, limits: _Limits) -> Normalize:
    finite = values[np.isfinite(values)]
    # Zeros do not rule out a log scale, because they are clipped to the lowest color.
    if limits is None and (not (finite > 0).any() or (finite < 0).any()):
        return Normalize(*((finite.min(), finite.max()) if finite.size else (0, 1)))
    if limits is None:
        high = finite.max()
        limits = max(finite[finite > 0].min(), high * 10.0**-DECADES), high
    low, high = limits
    if low <= 0:
        return Normalize(low, high, clip=True)
    return LogNorm(low, high if high > low else 10 * low, clip=True)


def _extend(values: np.ndarray, colors: Any) -> str:
    """Returns the sides on which values exceed the limits of the color scale."""
    finite = values[np.isfinite(values)]
    low, high = colors.norm.vmin, colors.norm.vmax
    below = bool(finite.size) and low is not None and finite.min() < low
    above = bool(finite.size) and high is not None and finite.max() > high
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[
        below, above
    ]
