"""Curves along the steps."""

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from stabjax.plot.axes import (
    MANY,
    draw_target,
    legend_below,
    log_limits,
    logarithmic,
    panels,
)
from stabjax.plot.data import label_of, name_pooled, percentile, variable_of
from stabjax.plot.facets import in_panels
from stabjax.plot.lines import lines_of, split

_BAND = (10, 50, 90)  # percentiles of the runs
_LARGEST = float(np.finfo(np.float32).max)
_HEADROOM = 1e3  # times its first value: a curve that diverges is not followed higher


def learning_curves(
    dataset: xr.Dataset,
    *,
    variable: str = "loss",
    hue: str | None = None,
    target: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Median of a variable along `step`, with a band from the 10th to 90th percentile.

    The vertical axis is logarithmic and shows at most nine decades, and at most three
    decades above the start of a curve that diverges. A cross marks where the median run
    diverges. Trials that were not run are left out. More than seven numbers are drawn
    in shades without bands, and the legend names some of them.

    Words and flags are never pooled: without `hue`, the first such dimension has the
    curves, and each combination of the others has a panel.

    Args:
      dataset: what `sweep` returns with `record_every`.
      variable: `loss`, or a metric such as `clip_grad_norm`.
      hue: a dimension with one curve for each of its values.
      target: draws a line at this value.
      ax: where to draw, in one panel, which pools words, too; None makes a new figure.

    Returns:
      The axes, those of the first panel if there are several.

    Raises:
      ValueError: the dataset lacks the variable or a dimension, or there are more than
        24 panels.

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
    data = variable_of(dataset, variable, step="step", hue=hue)
    hue, facets = split(data, hue)
    if ax is None and facets:
        same: dict[str, Any] = {"variable": variable, "hue": hue, "target": target}
        return in_panels(dataset, facets, partial(learning_curves, **same))
    ax = ax or panels(1)[0]
    steps = dataset["step"].to_numpy()
    curves = [
        (label, [percentile(_diverging(runs), p) for p in _BAND], style)
        for label, runs, style in lines_of(data, "step", hue)
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
    if target is not None:
        draw_target(ax, target)
    if hue is not None or target is not None:
        legend_below(ax)
    return ax


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
