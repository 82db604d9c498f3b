"""Plots of the ranges of learning rates that train successfully."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator

from stabjax._intervals import LEAST_SHARE, decades, decades_that_train
from stabjax._outcomes import best_of, is_maximized, scores_of, success_of
from stabjax.plot.axes import STAR, legend_below, logarithmic, panels
from stabjax.plot.cells import is_number, text_of
from stabjax.plot.data import (
    counts,
    label_of,
    name_pooled,
    percentile,
    pooled,
    success_in_words,
    variable_of,
)
from stabjax.plot.facets import in_panels
from stabjax.plot.lines import split

_COLOR, _PALE = "#0072B2", "#C5DDEE"
_HEIGHT = 0.74  # height of a bar with a success rate of 1
_STAR: dict[str, Any] = {**STAR, "ms": 10}


def rate_ranges(
    dataset: xr.Dataset,
    *,
    x: str,
    y: str | None = None,
    variable: str = "final_loss",
    target: float | None = None,
    maximize: bool | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plots the success rate against the learning rate, with a row per treatment.

    The height of a bar is the fraction of runs that are stable or, if `target` is
    given, reach the target. Runs are pooled over all other numeric dimensions. Bars
    with a success rate of at least 1/2 are dark. A star marks the learning rate with
    the best median run. Learning rates without runs have no bar.

    The number on the right is the total width of the dark bars in decades, where each
    bar spans the distance between adjacent learning rates, with a 95% bootstrap
    interval over seeds. If the lowest or the highest learning rate is successful, the
    grid is too small to show the whole range, and the number is a lower bound (>=).

    Args:
      dataset: a dataset returned by `sweep`.
      x: dimension of the learning rates, which must be positive and finite.
      y: dimension with a row for each value, such as treatments or thresholds. Numbers
        increase upwards, so an infinite threshold is always the top row. Names are
        listed from top to bottom. Categorical dimensions are not pooled: if `y` is
        None, the first of them is used, and each combination of the others has its own
        panel.
      variable: variable that is compared with `target`. A star marks its best value.
      target: if given, a run is successful if its variable is at least as good as this
        value. Otherwise, it is successful if it does not diverge.
      maximize: whether larger values are better, as for an accuracy. Defaults to the
        problem's metadata, or False if it is not specified there.
      ax: Matplotlib Axes to draw on. If given, all categories are pooled in one panel.
        Defaults to a new figure whose height depends on the number of rows.

    Returns:
      The Matplotlib Axes, or those of the first panel.

    Raises:
      ValueError: If the dataset does not have a variable or dimension, if the values of
        `x` are not positive and finite, or if the figure would need more than 24
        panels.

    Example:
      >>> import numpy as np
      >>> import optax, stabjax
      >>> def make_optimizer(rate, max_norm):
      ...     return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(rate))
      >>> space = stabjax.grid(rate=[0.01, 0.1, 1.0, 10.0], max_norm=[0.1, np.inf])
      >>> runs = stabjax.sweep(
      ...     stabjax.problems.quadratic(), make_optimizer, space, steps=100
      ... )
      >>> ax = stabjax.plot.rate_ranges(runs, x="rate", y="max_norm")
      >>> [text.get_text() for text in ax.texts]
      ['>= 4.0 decades', '>= 3.0 decades']
    """
    # The edges require sorted rates. A missing dimension raises an error below.
    dataset = dataset.sortby(x) if x in dataset.dims else dataset
    variable_of(dataset, variable, x=x, y=y)
    larger = is_maximized(dataset, variable, maximize)
    success = success_of(dataset, variable, target, larger)
    y, facets = split(success, y, x)
    if ax is None and facets:
        return in_panels(
            dataset,
            facets,
            rate_ranges,
            x=x,
            y=y,
            variable=variable,
            target=target,
            maximize=larger,
        )
    scores = scores_of(dataset, variable, larger)
    edges = _edges(dataset[x])
    names = dataset[y].to_numpy() if y else np.array([""])
    heights = _heights(names)
    ax = ax or _axes_of(len(names))
    for position, height in enumerate(heights):
        row = {y: position} if y else {}
        count, size = counts(pooled(success.isel(row), x))
        _draw_row(ax, height, edges, count / np.maximum(size, 1))
        best = best_of(percentile(pooled(scores.isel(row), x), 50), larger)
        if best is not None:
            ax.plot(dataset[x][best], height, **_STAR)
        _write_right(ax, height, _width(success.isel(row), x))
    logarithmic(ax, "x", edges[-1] / edges[0])
    ax.set(xlim=(edges[0], edges[-1]), ylim=(-0.5, len(names) - 0.5))
    ax.set_xlabel(label_of(dataset[x]))
    ax.set_ylabel(label_of(dataset[y]) if y else "")
    ax.yaxis.set_major_locator(FixedLocator(heights))
    ax.yaxis.set_major_formatter(FixedFormatter(list(map(text_of, names))))
    ax.tick_params("y", length=0)
    name_pooled(ax, "pooled", success, x, y)
    _add_legend(ax, success_in_words(target, larger), larger)
    return ax


def _heights(names: np.ndarray) -> list[int]:
    """Returns the row of each name, with numbers upwards and other names downwards."""
    order = np.argsort(names) if is_number(names) else np.arange(len(names))[::-1]
    return [int(height) for height in np.argsort(order)]


def _edges(rates: xr.DataArray) -> np.ndarray:
    """Returns the edges between learning rates; a single rate spans one decade."""
    values = rates.to_numpy()
    if values.dtype.kind not in "iuf" or not np.all((values > 0) & np.isfinite(values)):
        raise ValueError(
            f"x must contain positive and finite learning rates, got {rates.name} = "
            f"{', '.join(map(text_of, values))}."
        )
    at = np.log10(values.astype(float))
    parts = decades(values) if len(values) > 1 else np.ones(1)
    middles = (at[1:] + at[:-1]) / 2
    edges: np.ndarray = 10 ** np.concatenate(
        [at[:1] - parts[0] / 2, middles, at[-1:] + parts[-1] / 2]
    )
    return edges


def _axes_of(rows: int) -> Axes:
    ax = panels(1)[0]
    figure: Any = ax.figure
    figure.set_size_inches(5.2, 1.4 + 0.38 * rows)
    return ax


def _draw_row(ax: Axes, height: int, edges: np.ndarray, fraction: np.ndarray) -> None:
    trains = fraction >= LEAST_SHARE
    base = height - _HEIGHT / 2
    for some, color in ((fraction, _PALE), (np.where(trains, fraction, 0.0), _COLOR)):
        ax.stairs(base + _HEIGHT * some, edges, baseline=base, fill=True, color=color)
    ax.axhline(base, color="0.6", lw=0.6, zorder=0.5)


def _width(success: xr.DataArray, x: str) -> str:
    """Returns how many decades of rates train, with an interval over the seeds."""
    seeds = ("seed",) if "seed" in success.dims else ()
    runs = pooled(success, x, *seeds)
    runs = runs if seeds else runs[:, None]
    found = decades_that_train(runs, success[x])
    count, size = counts(pooled(success, x))
    trains = count / np.maximum(size, 1) >= LEAST_SHARE
    if not trains.any():
        return "none"
    if len(trains) == 1:
        return "one rate"
    bound = ">= " if trains[0] or trains[-1] else ""
    value, *interval = f"{found:.1f}".split(" ", 1)
    return " ".join([f"{bound}{value} decades", *interval])


def _write_right(ax: Axes, height: int, text: str) -> None:
    where: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    ax.annotate(text, (1.0, height), (6, 0), va="center", fontsize="small", **where)


def _add_legend(ax: Axes, words: str, maximize: bool) -> None:
    handles = [
        Patch(color=_COLOR, label=f"at least half {words}"),
        Patch(color=_PALE, label="fewer"),
        Line2D([], [], label="largest" if maximize else "smallest", **_STAR),
    ]
    legend_below(ax, handles=handles, handlelength=1.2)
