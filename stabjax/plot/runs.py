"""Curves along the steps, and shares of runs along a hyperparameter."""

import functools

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from scipy import stats

from stabjax.plot.axes import log_limits, logarithmic, panels, scale, styles
from stabjax.plot.cells import cells_of
from stabjax.plot.data import Array, curves_of, label_of, variable_of

_BAND = (10, 50, 90)  # percent of the runs
_LARGEST = float(np.finfo(np.float32).max)


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
    data = variable_of(dataset, variable, "step", hue)
    ax = ax or panels(1)[0]
    steps = dataset["step"].to_numpy()
    curves = {
        label: [_percentile(runs, percent) for percent in _BAND]
        for label, runs in curves_of(data, "step", hue)
    }
    limits = log_limits(np.array(list(curves.values())))
    if limits:
        logarithmic(ax, "y", limits[1] / limits[0])
        ax.set_ylim(*limits)
    floor = limits[0] / 10 if limits else -np.inf  # below it a zero leaves the picture
    for (label, band), style in zip(curves.items(), styles(), strict=False):
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
    ax.set_ylabel(label_of(data))
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
        held = variable_of(dataset, "status", x, hue) == 0
    else:
        held = variable_of(dataset, "final_loss", x, hue) <= target_loss
    cells = cells_of(dataset[x])
    for (label, runs), style in zip(curves_of(held, x, hue), styles(), strict=False):
        count, size = runs.sum(axis=-1), runs.shape[-1]
        low, high = np.array([_wilson(int(k), size) for k in count]).T
        ax.plot(cells.at, count / size, label=label, **style)
        ax.fill_between(cells.at, low, high, color=style["color"], alpha=0.13, lw=0)
    scale(ax, "x", cells)
    ax.set_xlabel(label_of(dataset[x]))
    target = "" if target_loss is None else f" that end at {target_loss:.2g} or below"
    ax.set_ylabel(f"share of runs{target or ' that do not diverge'}")
    ax.set_ylim(-0.03, 1.03)
    if hue is not None:
        ax.legend(frameon=False, fontsize="small")
    return ax


def _percentile(curves: Array, percent: float) -> Array:
    """A run's own value, not one between two: one of them may be infinite."""
    ordered: Array = np.sort(curves, axis=-1)
    return ordered[..., round((curves.shape[-1] - 1) * percent / 100)]


@functools.cache
def _wilson(count: int, size: int) -> tuple[float, float]:
    interval = stats.binomtest(count, size).proportion_ci(method="wilson")
    return interval.low, interval.high
