"""Pictures of datasets: a dataset and Axes in, Axes out; nothing global is touched.

Each function pools all dimensions that it is not told about, such as the seeds. A
picture is saved with ``ax.figure.savefig("name.png")``.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from scipy import stats

from stabjax._cells import Cells, border_of, cells_of, with_gaps

# Okabe and Ito's colours, which the colour-blind can tell apart, and lines for print.
_COLORS = ("#D55E00", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", (0, (5, 1)), ":", (0, (1, 1)), (0, (3, 1, 1, 1)))
_DIVERGED = "0.78"
_DECADES = 9  # of losses that a picture shows below the largest
_BAND = (10, 50, 90)  # percent of the runs
_LARGEST = float(np.finfo(np.float32).max)

_Array = np.ndarray[Any, Any]


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


def learning_curves(
    dataset: xr.Dataset,
    *,
    variable: str = "loss",
    hue: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Median of a variable along `step`, with a band from the 10th to the 90th percent.

    The vertical axis is logarithmic and shows nine decades at most. A cross marks
    where the median run diverges.

    Args:
      dataset: what `sweep` returns if it records.
      variable: `loss`, or a metric such as `clip_grad_norm`.
      hue: a dimension with one curve for each of its values, or None for one curve.
      ax: where to draw; None makes a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: if the dataset lacks the variable or a dimension.

    Example:
      >>> import optax, stabjax
      >>> runs = stabjax.sweep(
      ...     stabjax.problems.quadratic(), lambda rate: optax.sgd(rate),
      ...     stabjax.grid(rate=[0.1, 0.3], seed=range(4)), steps=10, record_every=1,
      ... )
      >>> ax = stabjax.plot.learning_curves(runs, hue="rate")
      >>> [line.get_label() for line in ax.get_lines()]
      ['rate = 0.1', 'rate = 0.3']
    """
    data = _variable(dataset, variable, "step", hue)
    ax = ax or panels(1)[0]
    steps = dataset["step"].to_numpy()
    curves = {
        label: [_percentile(runs, percent) for percent in _BAND]
        for label, runs in _curves(data, "step", hue)
    }
    limits = _log_limits(np.array(list(curves.values())))
    if limits:
        _logarithmic(ax, "y", limits[1] / limits[0])
        ax.set_ylim(*limits)
    floor = limits[0] / 10 if limits else -np.inf  # below it a zero leaves the picture
    for (label, band), style in zip(curves.items(), _styles(), strict=False):
        lower, median, upper = (np.clip(v, floor, _LARGEST) for v in band)
        lasts = int(np.isfinite(band[1]).sum())  # what diverged once stays so
        ax.plot(steps[:lasts], median[:lasts], label=label, **style)
        color = style["color"]
        ax.fill_between(
            steps[:lasts], lower[:lasts], upper[:lasts], color=color, alpha=0.18, lw=0
        )
        if 0 < lasts < len(steps):
            ax.plot(steps[lasts - 1], median[lasts - 1], "x", color=color, ms=8, mew=2)
    ax.set_xlabel("step")
    ax.set_ylabel(_label(data))
    if hue is not None:
        ax.legend(frameon=False, fontsize="small")
    return ax


def stable_share(
    dataset: xr.Dataset,
    *,
    x: str,
    hue: str | None = None,
    target_loss: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Share of the runs that hold, or end at a target, against a hyperparameter.

    The band is Wilson's 95 % interval for runs drawn independently, as the runs of
    different seeds at one point are.

    Args:
      dataset: what `sweep` returns.
      x: the dimension of the horizontal axis; logarithmic if its values are.
      hue: a dimension with one line for each of its values, or None for one line.
      target_loss: counts the runs whose `final_loss` is at most this, instead of those
        that did not diverge.
      ax: where to draw; None makes a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: if the dataset lacks a variable or a dimension.

    Example:
      >>> import optax, stabjax
      >>> runs = stabjax.sweep(
      ...     stabjax.problems.quadratic(), lambda rate: optax.sgd(rate),
      ...     stabjax.grid(rate=[0.5, 1.5], seed=range(4)), steps=100,
      ... )
      >>> ax = stabjax.plot.stable_share(runs, x="rate")
      >>> print(ax.get_lines()[0].get_ydata())
      [1. 0.]
    """
    ax = ax or panels(1)[0]
    if target_loss is None:
        held = _variable(dataset, "status", x, hue) == 0
    else:
        held = _variable(dataset, "final_loss", x, hue) <= target_loss
    cells = cells_of(dataset[x])
    for (label, runs), style in zip(_curves(held, x, hue), _styles(), strict=False):
        count, size = runs.sum(axis=-1), runs.shape[-1]
        low, high = np.array([_wilson(int(k), size) for k in count]).T
        ax.plot(cells.at, count / size, label=label, **style)
        ax.fill_between(cells.at, low, high, color=style["color"], alpha=0.13, lw=0)
    _scale(ax, "x", cells)
    ax.set_xlabel(_label(dataset[x]))
    target = "" if target_loss is None else f" that end at {target_loss:.2g} or below"
    ax.set_ylabel(f"share of runs{target or ' that do not diverge'}")
    ax.set_ylim(-0.03, 1.03)
    if hue is not None:
        ax.legend(frameon=False, fontsize="small")
    return ax


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
    diverged are grey, with a line along their border; cells not run are white; a star
    marks the smallest value, in the middle of its equals.

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
    data = _variable(dataset, variable, x, y)
    ax = ax or panels(1)[0]
    median = np.median(_pooled(data, y, x).astype(float), axis=-1)
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
    border = list(border_of(with_gaps(diverged.astype(float), across, up), across, up))
    ax.add_collection(LineCollection(border, colors="black", linewidths=1.5))
    _mark(ax, median, across, up)
    bar: dict[str, Any] = {"label": _label(data), "extend": _extend(median, colors)}
    ax.figure.colorbar(colors, ax=ax, **bar).minorticks_off()
    _scale(ax, "x", across)
    _scale(ax, "y", up)
    ax.set_xlabel(_label(dataset[x]))
    ax.set_ylabel(_label(dataset[y]))
    return ax


def _scale(ax: Axes, which: str, cells: Cells) -> None:
    """Makes an axis logarithmic or not, and labels what is no finite number."""
    axis = getattr(ax, f"{which}axis")
    if cells.log:
        _logarithmic(ax, which, cells.edges[-1] / cells.edges[0])
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


def _logarithmic(ax: Axes, which: str, ratio: float) -> None:
    """A logarithmic axis; over some decades, ticks between them take long to draw."""
    ax.set(**{f"{which}scale": "log"})
    if ratio > 1e2:
        getattr(ax, f"{which}axis").set_minor_locator(NullLocator())


def _number(value: float) -> str:
    decade = np.log10(value) if value > 0 else np.nan
    if np.isclose(decade, np.round(decade)):
        return f"$10^{{{round(decade)}}}$"
    return f"{value:.2g}"


def _mark(ax: Axes, median: _Array, across: Cells, up: Cells) -> None:
    """A star on the smallest value, and a legend of what the colour bar lacks."""
    handles: list[Any] = []
    if np.isinf(median).any():
        handles.append(Patch(facecolor=_DIVERGED, edgecolor="black", label="diverged"))
    finite = np.where(np.isfinite(median), median, np.inf)
    if np.isfinite(finite).any():
        equals = np.argwhere(finite <= finite.min())
        distance = np.abs(equals - equals.mean(axis=0)).sum(axis=1)
        row, column = equals[np.argmin(distance)]
        style: dict[str, Any] = {
            "marker": "*",
            "ms": 13,
            "mfc": "white",
            "mec": "black",
            "ls": "none",
        }
        ax.plot(across.at[column], up.at[row], **style)
        handles.append(Line2D([], [], label="smallest", **style))
    ax.legend(
        handles=handles,
        ncols=2,
        frameon=False,
        fontsize="small",
        loc="upper center",
        bbox_to_anchor=(0.5, -0.19),
    )


def _norm(values: _Array, limits: tuple[float, float] | None) -> Normalize:
    finite = values[np.isfinite(values)]
    if limits is None and (not (finite > 0).any() or (finite < 0).any()):
        return Normalize(*((finite.min(), finite.max()) if finite.size else (0, 1)))
    if limits is None:
        high = finite.max()
        limits = max(finite[finite > 0].min(), high * 10.0**-_DECADES), high
    low, high = limits
    return LogNorm(low, high if high > low else 10 * low, clip=True)


def _extend(values: _Array, colors: Any) -> str:
    """Whether values lie beyond the colours."""
    finite = values[np.isfinite(values)]
    low, high = colors.norm.vmin, colors.norm.vmax
    below = bool(finite.size) and low is not None and finite.min() < low
    above = bool(finite.size) and high is not None and finite.max() > high
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[
        below, above
    ]


def _variable(dataset: xr.Dataset, name: str, *dims: str | None) -> xr.DataArray:
    """A variable that has the dimensions, or an error that says what there is."""
    if name not in dataset.data_vars:
        known = ", ".join(map(str, dataset.data_vars))
        raise ValueError(f"the dataset has no variable {name!r}, only {known}.")
    for dim in dims:
        if dim is not None and dim not in dataset[name].dims:
            known = ", ".join(map(str, dataset[name].dims))
            raise ValueError(f"{name} has no dimension {dim!r}, only {known}.")
    return dataset[name]


def _curves(
    data: xr.DataArray, x: str, hue: str | None
) -> Iterator[tuple[str | None, _Array]]:
    """For each value of `hue` its label and an array of (x, all runs)."""
    values = data[hue].to_numpy() if hue else [None]
    for position, value in enumerate(values):
        one = data.isel({hue: position}) if hue else data
        named = isinstance(value, str) or value is None
        label = value if named else f"{_label(data[hue])} = {value:.3g}"
        yield label, _pooled(one, x)


def _pooled(data: xr.DataArray, *dims: str) -> _Array:
    """The values over these dimensions, and over all others together as the last."""
    values = data.transpose(*dims, ...).to_numpy()
    return values.reshape(*values.shape[: len(dims)], -1)


def _styles() -> Iterator[dict[str, Any]]:
    """Colours and lines, again and again."""
    for color, line in itertools.cycle(zip(_COLORS, _LINES, strict=True)):
        yield {"color": color, "linestyle": line, "linewidth": 1.5}


def _log_limits(values: _Array) -> tuple[float, float] | None:
    """Ends of a logarithmic axis; None where nothing is positive."""
    shown = values[np.isfinite(values) & (values > 0)]
    if not shown.size or (values < 0).any():
        return None
    high = float(shown.max())
    return max(float(shown.min()), high * 10.0**-_DECADES) / 1.5, high * 1.5


def _percentile(curves: _Array, percent: float) -> _Array:
    """A run's own value, not one between two: one of them may be infinite."""
    ordered: _Array = np.sort(curves, axis=-1)
    return ordered[..., round((curves.shape[-1] - 1) * percent / 100)]


@functools.cache
def _wilson(count: int, size: int) -> tuple[float, float]:
    interval = stats.binomtest(count, size).proportion_ci(method="wilson")
    return interval.low, interval.high


def _label(data: xr.DataArray) -> str:
    """What an axis is called: the long name and the units, or the name."""
    units = f" ({data.attrs['units']})" if "units" in data.attrs else ""
    return str(data.attrs.get("long_name", str(data.name).replace("_", " "))) + units
