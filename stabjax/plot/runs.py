"""Plots of learning curves and success rates."""

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
_HEADROOM = 1e3  # diverging curves are cut off at this multiple of the initial value


def learning_curves(
    dataset: xr.Dataset,
    *,
    variable: str = "loss",
    hue: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plots the median of a recorded variable with its 10th and 90th percentiles.

    The vertical axis is logarithmic and covers at most nine decades. Diverging curves
    are cut off three decades above their initial value, and a cross marks the step at
    which the median run diverges. Missing runs are ignored. More than seven numeric
    values of `hue` are drawn in shades of one color, without bands, and the legend
    lists only some of them.

    Args:
      dataset: a dataset returned by `sweep` with `record_every`.
      variable: recorded variable, such as `loss` or `clip_grad_norm`.
      hue: dimension with a curve for each value. None draws a single curve.
      ax: Matplotlib Axes to draw into. None creates a new figure.

    Returns:
      The Matplotlib Axes.

    Raises:
      ValueError: If the dataset does not have the variable or a dimension.

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
    floor = limits[0] / 10 if limits else -np.inf  # zeros are below the axis
    for label, band, style in curves:
        # Matplotlib omits lines to infinity but clips lines to a large number.
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
    name_pooled(ax, "median and 80% band", data, "step", hue)
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
    """Plots the fraction of successful runs against a hyperparameter.

    The band is the 95% Wilson score interval, which assumes that runs are independent.
    Runs at the same point with different seeds satisfy this assumption. Missing runs
    are ignored. More than seven numeric values of `hue` are drawn in shades of one
    color, without bands, and the legend lists only some of them.

    Args:
      dataset: a dataset returned by `sweep`.
      x: dimension for the horizontal axis. The axis is logarithmic if the values are
        logarithmically spaced. An infinite value is drawn at the end.
      hue: dimension with a line for each value. None draws a single line.
      target_loss: if given, a run is successful if its `final_loss` is at most this
        value. Otherwise, it is successful if it does not diverge.
      ax: Matplotlib Axes to draw into. None creates a new figure.

    Returns:
      The Matplotlib Axes.

    Raises:
      ValueError: If the dataset does not have a variable or dimension.

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
    """Yields curves with their styles, and hides some labels if there are many."""
    curves = curves_of(data, x, hue)
    number = data.sizes[hue] if hue else 1
    if number <= MANY or not is_scale(data[hue].to_numpy()):
        for (label, runs), style in zip(curves, styles(), strict=False):
            yield label, runs, style
        return
    # Five labels suffice, because the shades are ordered.
    shown = set(np.linspace(0, number - 1, 5).round().astype(int))
    for position, ((label, runs), style) in enumerate(
        zip(curves, shades(number), strict=True)
    ):
        # Matplotlib omits labels with a leading underscore from the legend.
        yield label if position in shown else f"_{label}", runs, style


def _diverging(runs: np.ndarray) -> np.ndarray:
    """Replaces trailing NaN by infinity.

    A metric that becomes NaN and stays NaN belongs to a diverged run. If all values are
    NaN, the run is missing.
    """
    runs = runs.astype(float)
    known = ~np.isnan(runs)
    later = np.logical_or.accumulate(known[::-1])[::-1]
    return np.where(known.any(axis=0) & ~later, np.inf, runs)


def _visible(curve: np.ndarray) -> np.ndarray:
    """Returns a curve without the part where it diverges."""
    positive = curve[np.isfinite(curve) & (curve > 0)]
    if not np.isinf(curve).any() or not positive.size:
        return curve
    return np.where(curve <= _HEADROOM * positive[0], curve, np.nan)


def _mark_divergence(
    ax: Axes, steps: np.ndarray, median: np.ndarray, color: str
) -> None:
    """Draws a cross at the end of a curve, or at step 0 if the curve is empty."""
    style: dict[str, Any] = {"color": color, "ms": 8, "mew": 2}
    if len(steps):
        at = min(median[-1], ax.get_ylim()[1])
        ax.plot(steps[-1], at, "x", clip_on=False, **style)
    else:
        ax.plot(0.02, 0.96, "x", transform=ax.transAxes, **style)
