"""Curves along the steps, and success rates along a hyperparameter."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from stabjax._intervals import wilson
from stabjax.plot.axes import (
    MANY,
    legend_below,
    log_limits,
    logarithmic,
    panels,
    scale,
    shades,
    styles,
)
from stabjax.plot.cells import cells_of, infinity_last, is_scale
from stabjax.plot.data import (
    counts,
    curves_of,
    label_of,
    name_pooled,
    percentile,
    success_of,
    variable_of,
)

_BAND = (10, 50, 90)  # percentiles of the runs
_LARGEST = float(np.finfo(np.float32).max)
_HEADROOM = 1e3  # times its first value: a curve that diverges is not followed higher


def learning_curves(
    dataset: xr.Dataset,
    *,
    variable: str = "loss",
    hue: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Median of a variable along `step`, with a band from the 10th to 90th percentile.

    The vertical axis is logarithmic and shows at most nine decades, and at most three
    decades above the start of a curve that diverges. A cross marks where the median run
    diverges. Trials that were not run are left out. More than seven numbers are drawn
    in shades without bands, and the legend names some of them.

    Args:
      dataset: what `sweep` returns with `record_every`.
      variable: `loss`, or a metric such as `clip_grad_norm`.
      hue: a dimension with one curve for each of its values, or None for one curve.
      ax: where to draw; None makes a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: the dataset lacks the variable or a dimension.

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
    data = variable_of(dataset, variable, "step", hue)
    ax = ax or panels(1)[0]
    steps = dataset["step"].to_numpy()
    curves = [
        (label, [percentile(_diverging(runs), p) for p in _BAND], style)
        for label, runs, style in _styled(data, "step", hue)
    ]
    limits = log_limits(np.array([_visible(v) for _, band, _ in curves for v in band]))
    if limits:
        logarithmic(ax, "y", limits[1] / limits[0])
        ax.set_ylim(*limits)
    floor = limits[0] / 10 if limits else -np.inf  # a zero leaves the plot downwards
    for label, band, style in curves:
        # Matplotlib draws no line to infinity, but clips one to a large number.
        lower, median, upper = (np.clip(v, floor, _LARGEST) for v in band)
        finite = np.isfinite(band[1])
        marker = "." if finite.sum() == 1 else ""
        ax.plot(steps[finite], median[finite], label=label, marker=marker, **style)
        color = style["color"]
        if len(curves) <= MANY:
            edges = lower[finite], upper[finite]
            ax.fill_between(steps[finite], *edges, color=color, alpha=0.18, lw=0)
        if np.isinf(band[1]).any():
            _mark_divergence(ax, steps[finite], median[finite], color)
    if len(steps) > 1:
        margin = 0.05 * (steps[-1] - steps[0])
        ax.set_xlim(steps[0] - margin, steps[-1] + margin)
    ax.set_xlabel("step")
    ax.set_ylabel(label_of(data))
    name_pooled(ax, "median and 80 % band", data, "step", hue)
    if hue is not None:
        ax.legend(frameon=False, fontsize="small")
    return ax


def stable_fraction(
    dataset: xr.Dataset,
    *,
    x: str,
    hue: str | None = None,
    target_loss: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Fraction of runs that are stable, or reach a target, against a hyperparameter.

    The band is Wilson's 95 % interval for independent runs, as the runs of different
    seeds at one point are. Trials that were not run do not count. More than seven
    numbers are drawn in shades without bands, and the legend names some of them.

    Args:
      dataset: what `sweep` returns.
      x: the dimension of the horizontal axis. It is logarithmic if its values are
        evenly spaced in the logarithm, and an infinite value stands last.
      hue: a dimension with one line for each of its values, or None for one line.
      target_loss: counts the runs whose `final_loss` is at most this, instead of those
        that did not diverge.
      ax: where to draw; None makes a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: the dataset lacks a variable or a dimension.

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
    ax = ax or panels(1)[0]
    dataset = infinity_last(dataset, x)
    success, words = success_of(dataset, target_loss, x, hue)
    cells = cells_of(dataset[x])
    many = hue is not None and dataset.sizes[hue] > MANY
    marker = "" if cells.labels is None else "o"
    for label, runs, style in _styled(success, x, hue):
        count, size = counts(runs)
        fraction = count / np.where(size > 0, size, np.nan)
        ax.plot(cells.at, fraction, label=label, marker=marker, ms=4, **style)
        if not many:
            low, high = wilson(count, size)
            ax.fill_between(cells.at, low, high, color=style["color"], alpha=0.13, lw=0)
    scale(ax, "x", cells)
    ax.set_xlabel(label_of(dataset[x]))
    ax.set_ylabel(f"fraction of runs that\n{words}")
    ax.set_ylim(-0.03, 1.03)
    name_pooled(ax, "pooled", success, x, hue)
    if hue is not None:
        legend_below(ax, ncols=2 if dataset.sizes[hue] == 4 else 3)
    return ax


def _styled(
    data: xr.DataArray, x: str, hue: str | None
) -> Iterator[tuple[str | None, np.ndarray, dict[str, Any]]]:
    """Yields the curves with their styles; some of many numbers have no shown label."""
    curves = curves_of(data, x, hue)
    number = data.sizes[hue] if hue else 1
    if number <= MANY or not is_scale(data[hue].to_numpy()):
        for (label, runs), style in zip(curves, styles(), strict=False):
            yield label, runs, style
        return
    shown = set(np.linspace(0, number - 1, 5).round().astype(int))
    for position, ((label, runs), style) in enumerate(
        zip(curves, shades(number), strict=True)
    ):
        yield label if position in shown else f"_{label}", runs, style


def _diverging(runs: np.ndarray) -> np.ndarray:
    """Returns the runs with infinity where a metric is NaN up to the last step.

    A run that has values first and then none diverged; one without any was not run.
    """
    runs = runs.astype(float)
    known = ~np.isnan(runs)
    later = np.logical_or.accumulate(known[::-1])[::-1]
    return np.where(known.any(axis=0) & ~later, np.inf, runs)


def _visible(curve: np.ndarray) -> np.ndarray:
    """Returns the curve, or the beginning of a curve that diverges."""
    positive = curve[np.isfinite(curve) & (curve > 0)]
    if not np.isinf(curve).any() or not positive.size:
        return curve
    return np.where(curve <= _HEADROOM * positive[0], curve, np.nan)


def _mark_divergence(
    ax: Axes, steps: np.ndarray, median: np.ndarray, color: str
) -> None:
    """Draws a cross at the end of a curve, or above the first step if it has none."""
    style: dict[str, Any] = {"color": color, "ms": 8, "mew": 2}
    if len(steps):
        at = min(median[-1], ax.get_ylim()[1])
        ax.plot(steps[-1], at, "x", clip_on=False, **style)
    else:
        ax.plot(0.02, 0.96, "x", transform=ax.transAxes, **style)
