"""Curves along the steps."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from stabjax._outcomes import best_of, is_maximized
from stabjax.plot.axes import (
    MANY,
    STAR,
    draw_target,
    legend_below,
    log_limits,
    logarithmic,
    panels,
)
from stabjax.plot.data import label_of, name_pooled, percentile, variable_of
from stabjax.plot.facets import in_panels
from stabjax.plot.lines import lines_of, split
from stabjax.plot.samples import binned

_BAND = (10, 50, 90)  # percentiles of the runs
_LARGEST = float(np.finfo(np.float32).max)
# A label, the percentiles, and a style.
Curve = tuple[str | None, list[np.ndarray], dict[str, Any]]
_HEADROOM = 1e3  # diverging curves are cut off at this multiple of the initial value


def learning_curves(
    dataset: xr.Dataset,
    *,
    variable: str = "loss",
    hue: str | None = None,
    target: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plots the median of a recorded variable with its 10th and 90th percentiles.

    The vertical axis is logarithmic and covers at most nine decades. Diverging curves
    are cut off three decades above their initial value, and a cross marks the step at
    which the median run diverges. Missing runs are ignored. More than seven numeric
    values of `hue` are drawn in shades of one color, without bands, and the legend
    lists only some of them.

    Evaluations of a sweep with `evaluate_every` are drawn against the number of
    updates, and the run with the best value is drawn in black, with a star at that
    value. The vertical axis is linear if larger values are better. Runs that stopped
    early keep their last value.

    Categorical dimensions (strings and booleans) are not pooled. If `hue` is None, the
    first of them is used instead. Each combination of the others has its own panel.

    Args:
      dataset: a dataset returned by `sweep` with `record_every` or `evaluate_every`.
      variable: `loss`, a metric such as `clip_grad_norm`, or evaluations such as
        `test_accuracy_curve`.
      hue: dimension with a curve for each value, or a coordinate along `trial`, whose
        values are divided into up to 12 bins.
      target: value to mark with a horizontal line.
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
      ...     stabjax.problems.quadratic(), lambda rate: optax.sgd(rate),
      ...     stabjax.grid(rate=[0.1, 0.3], seed=range(4)), steps=10, record_every=1,
      ... )
      >>> ax = stabjax.plot.learning_curves(runs, hue="rate")
      >>> [line.get_label() for line in ax.get_lines()]
      ['rate = 0.1', 'rate = 0.3']
    """
    dataset = binned(dataset, hue)
    along = _along(variable_of(dataset, variable))
    data = variable_of(dataset, variable, step=along, hue=hue)
    hue, facets = split(data, hue)
    if ax is None and facets:
        return in_panels(
            dataset, facets, learning_curves, variable=variable, hue=hue, target=target
        )
    ax = ax or panels(1)[0]
    steps = dataset[along].to_numpy()
    data = _filled(dataset, data, along)
    larger = is_maximized(dataset, variable, None)
    curves = [
        (label, [percentile(_diverging(runs), p) for p in _BAND], style)
        for label, runs, style in lines_of(data, along, hue)
    ]
    best = _best_run(dataset, data, along)
    seen = [_visible(values) for _, band, _ in curves for values in band]
    seen += [] if best is None else [best]
    limits = None if larger else log_limits(np.array(seen))
    if limits:
        logarithmic(ax, "y", limits[1] / limits[0])
        ax.set_ylim(*limits)
    # Zeros are below the axis.
    _draw_curves(ax, steps, curves, limits[0] / 10 if limits else -np.inf)
    if best is not None:
        _draw_run(ax, steps, best, larger)
    _set_limits(ax, steps)
    ax.set_xlabel("step" if along == "step" else "updates")
    ax.set_ylabel(label_of(data).removesuffix(" curve"))
    name_pooled(ax, "median and 80% band", data, along, hue)
    if target is not None:
        draw_target(ax, target)
    if hue is not None or target is not None or best is not None:
        legend_below(ax)
    return ax


def _along(data: xr.DataArray) -> str:
    return "evaluated_at" if "evaluated_at" in data.dims else "step"


def _filled(dataset: xr.Dataset, data: xr.DataArray, along: str) -> xr.DataArray:
    """Repeats the last value of each run that stopped early."""
    if "stopped_at" not in dataset:
        return data
    data = data.transpose(along, ...)
    values = data.to_numpy()
    rows = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
    last = np.maximum.accumulate(np.where(np.isnan(values), 0, rows), axis=0)
    filled = data.copy(data=np.take_along_axis(values, last, axis=0))
    return data.where(dataset["status"] != 0, filled)


def _best_run(dataset: xr.Dataset, data: xr.DataArray, along: str) -> np.ndarray | None:
    """Returns the evaluations of the run with the best value."""
    better = dataset[str(data.name)].attrs.get("better")
    if along == "step" or better is None:
        return None
    best = best_of(data.where(dataset["status"] == 0).to_numpy(), better == "higher")
    if best is None:
        return None
    at = {dim: i for dim, i in zip(data.dims, best, strict=True) if dim != along}
    return data.isel(at).to_numpy()


def _draw_run(ax: Axes, steps: np.ndarray, run: np.ndarray, maximize: bool) -> None:
    """Draws a run with a star at its best value."""
    ax.plot(steps, run, color="black", lw=1.0, label="best run")
    if best := best_of(run, maximize):
        ax.plot(steps[best], run[best], zorder=4, **STAR)


def _set_limits(ax: Axes, steps: np.ndarray) -> None:
    if len(steps) > 1:
        margin = 0.05 * (steps[-1] - steps[0])
        ax.set_xlim(steps[0] - margin, steps[-1] + margin)


def _draw_curves(
    ax: Axes, steps: np.ndarray, curves: list[Curve], floor: float
) -> None:
    """Draws medians and bands."""
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
