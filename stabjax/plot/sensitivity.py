"""Plots of a variable or a success rate against one hyperparameter."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from stabjax._intervals import wilson
from stabjax._outcomes import best_of, is_maximized, scores_of, success_of
from stabjax.plot.axes import (
    MANY,
    STAR,
    draw_target,
    legend_below,
    log_limits,
    logarithmic,
    panels,
    scale,
)
from stabjax.plot.cells import Cells, cells_of, infinity_last
from stabjax.plot.data import (
    counts,
    label_of,
    name_pooled,
    percentile,
    success_in_words,
    variable_of,
)
from stabjax.plot.facets import in_panels
from stabjax.plot.lines import lines_of, split
from stabjax.plot.samples import binned

_BAND = (10, 50, 90)  # percentiles of the runs
_FAR = 30.0  # upper end of the plot / upper quartile of the medians


def stable_fraction(
    dataset: xr.Dataset,
    *,
    x: str,
    hue: str | None = None,
    variable: str = "final_loss",
    target: float | None = None,
    maximize: bool | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Fraction of runs that are stable, or reach a target, against a hyperparameter.

    The band is the 95% Wilson score interval for independent runs, such as runs at the
    same point with different seeds. Trials that were not run do not count. More than
    seven numeric values of `hue` are drawn in shades of one color, without bands, and
    the legend lists only some of them.

    Categorical dimensions (strings and booleans) are not pooled. If `hue` is None, the
    first of them is used instead. Each combination of the others has its own panel.

    Args:
      dataset: a dataset returned by `sweep`.
      x: dimension for the horizontal axis. The axis is logarithmic if the values are
        logarithmically spaced. An infinite value is drawn at the end. The values of a
        random sample, a coordinate along `trial`, are divided into up to 12 bins with
        equal numbers of trials.
      hue: dimension with a line for each value.
      variable: variable that is compared with `target`.
      target: if given, a run is successful if its variable is at least as good as this
        value. Otherwise, it is successful if it does not diverge.
      maximize: whether larger values are better, as for an accuracy. Defaults to the
        problem's metadata, or False if it is not specified there.
      ax: Matplotlib Axes to draw on. If given, all categories are pooled in one panel.
        Defaults to a new figure.

    Returns:
      The Matplotlib Axes, or those of the first panel.

    Raises:
      ValueError: If the dataset does not have a variable or dimension, or if the figure
        would need more than 24 panels.

    Example:
      >>> import optax, stabjax
      >>> runs = stabjax.sweep(
      ...     stabjax.problems.quadratic(), lambda rate: optax.sgd(rate),
      ...     stabjax.grid(rate=[0.5, 1.5], seed=range(4)), steps=100,
      ... )
      >>> ax = stabjax.plot.stable_fraction(runs, x="rate")
      >>> print(ax.get_lines()[0].get_ydata())
      [1. 0.]
    """
    dataset = binned(dataset, x, hue)
    shown = "status" if target is None else variable
    variable_of(dataset, shown, x=x, hue=hue)
    larger = target is not None and is_maximized(dataset, variable, maximize)
    dataset = infinity_last(dataset, x)
    success = success_of(dataset, variable, target, larger)
    hue, facets = split(success, hue, x)
    if ax is None and facets:
        return in_panels(
            dataset,
            facets,
            stable_fraction,
            x=x,
            hue=hue,
            variable=variable,
            target=target,
            maximize=larger,
        )
    ax = ax or panels(1)[0]
    cells = cells_of(dataset[x])
    many = hue is not None and dataset.sizes[hue] > MANY
    marker = "" if cells.labels is None else "o"
    for label, runs, style in lines_of(success, x, hue):
        count, size = counts(runs)
        fraction = count / np.where(size > 0, size, np.nan)
        ax.plot(cells.at, fraction, label=label, marker=marker, ms=4, **style)
        if not many:
            low, high = wilson(count, size)
            ax.fill_between(cells.at, low, high, color=style["color"], alpha=0.13, lw=0)
    scale(ax, "x", cells)
    ax.set_xlabel(label_of(dataset[x]))
    ax.set_ylabel(f"fraction of runs that\n{success_in_words(target, larger)}")
    ax.set_ylim(-0.03, 1.03)
    name_pooled(ax, "pooled", success, x, hue)
    if hue is not None:
        legend_below(ax)
    return ax


def sensitivity(
    dataset: xr.Dataset,
    *,
    x: str,
    variable: str = "final_loss",
    hue: str | None = None,
    target: float | None = None,
    maximize: bool | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plots the median of a variable against one hyperparameter.

    The band spans the 10th to 90th percentiles of the runs. A star marks the best
    median of each line, or the middle one of several equal values. A cross at the edge
    of the plot marks a value at which the median run diverges. Missing runs are
    ignored. More than seven numeric values of `hue` are drawn in shades of one color,
    without bands, and the legend lists only some of them.

    Categorical dimensions (strings and booleans) are not pooled. If `hue` is None, the
    first of them is used instead. Each combination of the others has its own panel.

    Args:
      dataset: a dataset returned by `sweep`.
      x: dimension for the horizontal axis. The axis is logarithmic if the values are
        logarithmically spaced. An infinite value is drawn at the end. The values of a
        random sample, a coordinate along `trial`, are divided into up to 12 bins with
        equal numbers of trials.
      variable: variable with one value per run, such as `final_loss`.
      hue: dimension with a line for each value.
      target: value to mark with a horizontal line.
      maximize: whether larger values are better, as for an accuracy. Defaults to the
        problem's metadata, or False if it is not specified there.
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
      ...     stabjax.problems.quadratic(noise=0.1), lambda rate: optax.sgd(rate),
      ...     stabjax.grid(rate=[0.01, 0.1, 1.0], seed=range(8)), steps=20,
      ... )
      >>> ax = stabjax.plot.sensitivity(runs, x="rate")
      >>> print(ax.get_title())
      median and 80% band over seed (8)

    References:
      Wortsman et al., "Small-scale proxies for large-scale Transformer training
      instabilities", 2023, https://arxiv.org/abs/2309.14322 (the plots of loss against
      learning rate).
    """
    dataset = binned(dataset, x, hue)
    variable_of(dataset, variable, x=x, hue=hue)
    larger = is_maximized(dataset, variable, maximize)
    dataset = infinity_last(dataset, x)
    data = scores_of(dataset, variable, larger)
    hue, facets = split(data, hue, x)
    if ax is None and facets:
        return in_panels(
            dataset,
            facets,
            sensitivity,
            x=x,
            hue=hue,
            variable=variable,
            target=target,
            maximize=larger,
        )
    ax = ax or panels(1)[0]
    cells = cells_of(dataset[x])
    curves = [
        (label, [percentile(runs, p) for p in _BAND], style)
        for label, runs, style in lines_of(data, x, hue)
    ]
    limits = _limits(ax, [band[1] for _, band, _ in curves], log=not larger)
    for label, band, style in curves:
        _draw_line(ax, cells, [np.clip(v, *limits) for v in band], label, style)
        _mark(ax, cells, band[1], style["color"], larger)
    ax.set_xlim(cells.edges[0], cells.edges[-1])
    scale(ax, "x", cells)
    ax.set_xlabel(label_of(dataset[x]))
    ax.set_ylabel(label_of(dataset[variable]))
    name_pooled(ax, "median and 80% band", data, x, hue)
    if target is not None:
        draw_target(ax, target)
    if hue is not None or target is not None:
        legend_below(ax)
    return ax


def _limits(ax: Axes, medians: list[np.ndarray], *, log: bool) -> tuple[float, float]:
    """Sets the limits of the vertical axis and returns numbers just outside of them."""
    values = np.concatenate(medians)
    finite = values[np.isfinite(values)]
    if finite.size and log:  # ignore very large losses of runs that nearly diverged
        usual = np.quantile(finite, 0.75, method="nearest")
        finite = finite[finite <= max(_FAR * usual, usual)]
    limits = log_limits(finite) if log else None
    if limits and limits[1] / limits[0] > 10:
        logarithmic(ax, "y", limits[1] / limits[0])
        ax.set_ylim(*limits)
        return limits[0] / 10, limits[1] * 10
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    ax.set_ylim(low - margin, high + margin)
    return low - 2 * margin, high + 2 * margin


def _draw_line(
    ax: Axes,
    cells: Cells,
    band: list[np.ndarray],
    label: str | None,
    style: dict[str, Any],
) -> None:
    """Draws a median and its band, with a gap before an infinite value."""
    at, ends = cells.at, band
    if cells.gap is not None:
        at = np.insert(at, cells.gap, np.nan)
        ends = [np.insert(values, cells.gap, np.nan) for values in band]
    lower, median, upper = ends
    marker = "o" if cells.labels is not None or cells.gap is not None else ""
    ax.plot(at, median, label=label, marker=marker, ms=4, **style)
    ax.fill_between(at, lower, upper, color=style["color"], alpha=0.15, lw=0)


def _mark(
    ax: Axes, cells: Cells, median: np.ndarray, color: str, maximize: bool
) -> None:
    """Marks the best median with a star, and diverged median runs with crosses."""
    diverged = np.isinf(median)
    across: Any = ax.get_xaxis_transform()
    edge = np.full(diverged.sum(), 0.02 if maximize else 0.98)
    ax.plot(cells.at[diverged], edge, "x", color=color, ms=6, transform=across)
    best = best_of(median, maximize)
    if best is not None:
        at = np.clip(median[best], *ax.get_ylim())  # zero has no logarithm
        ax.plot(cells.at[best], at, zorder=4, clip_on=False, **STAR)
