"""Which learning rates train: a row for each remedy."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator

from stabjax._intervals import LEAST_SHARE, decades
from stabjax.plot.axes import STAR, legend_below, logarithmic, panels
from stabjax.plot.cells import is_scale, text_of
from stabjax.plot.data import (
    Array,
    counts,
    label_of,
    percentile,
    pooled,
    smallest_of,
    trained,
    variable_of,
)

_COLOR, _PALE = "#0072B2", "#C5DDEE"
_HEIGHT = 0.74  # of a row at a rate at which every run trains
_STAR: dict[str, Any] = {**STAR, "ms": 10}


def rate_ranges(
    dataset: xr.Dataset,
    *,
    x: str,
    y: str | None = None,
    target_loss: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Which learning rates train, as a bar for each remedy, and how many decades.

    The height is the share of the runs that hold, or end at a target, all other
    dimensions together. It is dark where they are half or more: there a rate trains. To
    the right stands how wide that is, where some rates of an even grid have their
    number times their distance. A star marks the smallest final loss of a median run.
    Where nothing was run it is empty.

    Args:
      dataset: what `sweep` returns.
      x: the dimension of the learning rates, which are positive and finite.
      y: a dimension with a row for each of its values (remedies, methods, thresholds),
        or None for one row. Numbers go upwards, names downwards.
      target_loss: counts the runs whose `final_loss` is at most this, instead of those
        that did not diverge.
      ax: where to draw; None makes a new figure, as high as the rows need.

    Returns:
      The axes.

    Raises:
      ValueError: if the dataset lacks a variable or a dimension, or `x` are no rates.

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
      ['4.0 decades', '3.0 decades']
    """
    dataset = dataset.sortby(x) if x in dataset.dims else dataset
    known, words = trained(dataset, target_loss, x, y)
    losses = variable_of(dataset, "final_loss", x, y)
    edges = _edges(dataset[x])
    names = dataset[y].to_numpy() if y else np.array([""])
    heights = list(range(len(names)))
    if not is_scale(names):
        heights.reverse()
    ax = ax or _axes_of(len(names))
    for position, height in enumerate(heights):
        row = {y: position} if y else {}
        count, size = counts(pooled(known.isel(row), x))
        trains = _draw(ax, height, edges, count / np.maximum(size, 1))
        best = smallest_of(percentile(pooled(losses.isel(row), x).astype(float), 50))
        if best is not None:
            ax.plot(dataset[x][best], height, **_STAR)
        _write(ax, height, _width(trains, dataset[x]))
    logarithmic(ax, "x", edges[-1] / edges[0])
    ax.set(xlim=(edges[0], edges[-1]), ylim=(-0.5, len(names) - 0.5))
    ax.set_xlabel(label_of(dataset[x]))
    ax.set_ylabel(label_of(dataset[y]) if y else "")
    ax.yaxis.set_major_locator(FixedLocator(heights))
    ax.yaxis.set_major_formatter(FixedFormatter(list(map(text_of, names))))
    ax.tick_params("y", length=0)
    _explain(ax, words)
    return ax


def _edges(rates: xr.DataArray) -> Array:
    """Of the parts of the axis that belong to the rates; one alone has a decade."""
    values = rates.to_numpy()
    if values.dtype.kind not in "iuf" or not np.all((values > 0) & np.isfinite(values)):
        raise ValueError(
            f"x must be learning rates, positive and finite, got {rates.name} = "
            f"{', '.join(map(text_of, values))}."
        )
    at = np.log10(values.astype(float))
    parts = decades(values) if len(values) > 1 else np.ones(1)
    middles = (at[1:] + at[:-1]) / 2
    edges: Array = 10 ** np.concatenate(
        [at[:1] - parts[0] / 2, middles, at[-1:] + parts[-1] / 2]
    )
    return edges


def _axes_of(rows: int) -> Axes:
    ax = panels(1)[0]
    figure: Any = ax.figure
    figure.set_size_inches(5.2, 1.2 + 0.38 * rows)
    return ax


def _draw(ax: Axes, height: int, edges: Array, share: Array) -> Array:
    """A row; which rates train."""
    trains = share >= LEAST_SHARE
    base = height - _HEIGHT / 2
    for some, color in ((share, _PALE), (np.where(trains, share, 0.0), _COLOR)):
        ax.stairs(base + _HEIGHT * some, edges, baseline=base, fill=True, color=color)
    ax.axhline(base, color="0.6", lw=0.6, zorder=0.5)
    return trains


def _width(trains: Array, rates: xr.DataArray) -> str:
    if not trains.any():
        return "none"
    if len(trains) == 1:
        return "one rate"
    return f"{decades(rates)[trains].sum():.1f} decades"


def _write(ax: Axes, height: int, text: str) -> None:
    """To the right of a row."""
    where: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    ax.annotate(text, (1.0, height), (6, 0), va="center", fontsize="small", **where)


def _explain(ax: Axes, words: str) -> None:
    handles = [
        Patch(color=_COLOR, label=f"at least half {words}"),
        Patch(color=_PALE, label="fewer"),
        Line2D([], [], label="smallest loss", **_STAR),
    ]
    legend_below(ax, handles=handles, ncols=3, handlelength=1.2)
