"""Plots of gradient norms and clipping thresholds."""

import itertools

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from stabjax.plot.axes import legend_below, log_limits, logarithmic, panels, styles

_BINS = 41
_FAR = 100.0  # the axis omits thresholds above this multiple of the largest norm


def gradient_norms(
    norms: xr.DataArray | ArrayLike,
    *,
    max_norm: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plots the history and the distribution of gradient norms with a threshold.

    Non-finite norms are drawn as crosses at the upper edge.

    Args:
      norms: gradient norms before clipping at each step, as an array or as a dataset
        variable such as `runs.clip_grad_norm` for a single run. If there is a
        coordinate `step`, it is used for the horizontal axis.
      max_norm: a threshold, or an array with a threshold for each step. Steps above the
        threshold are marked, and the legend shows their percentage. Defaults to None.
      ax: Matplotlib Axes for the history. Defaults to a new figure. The distribution is
        drawn in additional Axes on the right.

    Returns:
      The Matplotlib Axes of the history.

    Raises:
      ValueError: If `norms` is not one-dimensional.

    Example:
      >>> import numpy as np
      >>> import stabjax
      >>> norms = np.exp(np.sin(np.arange(1000.0)) / 4)
      >>> norms[::100] = 40.0
      >>> threshold = stabjax.suggest_max_norm(norms).max_norm
      >>> ax = stabjax.plot.gradient_norms(norms, max_norm=threshold)
      >>> print(ax.get_legend().get_texts()[0].get_text())
      max_norm 2.22 clips 1.00%
    """
    values = np.asarray(norms, float)
    if values.ndim != 1:
        raise ValueError(f"norms must be one-dimensional, got shape {values.shape}.")
    steps = np.arange(len(values))
    if isinstance(norms, xr.DataArray) and "step" in norms.coords:
        steps = norms["step"].to_numpy()
    ax = ax or panels(1)[0]
    side = ax.inset_axes((1.02, 0.0, 0.2, 1.0), sharey=ax)
    side.set_axis_off()
    norm, threshold = (style["color"] for style in itertools.islice(styles(), 2))
    finite = np.isfinite(values)
    marker = "." if len(values) == 1 else ""
    ax.plot(steps, np.where(finite, values, np.nan), lw=0.8, color=norm, marker=marker)
    if not finite.all():
        at = steps[~finite]
        across = ax.get_xaxis_transform()
        ax.plot(at, np.full(len(at), 0.98), "x", color=norm, transform=across)
    thresholds = np.broadcast_to(
        np.asarray(np.nan if max_norm is None else max_norm, float), values.shape
    )
    near = thresholds[thresholds <= _FAR * values[finite].max(initial=0.0)]
    limits = log_limits(np.concatenate([values, near]))
    if limits:
        logarithmic(ax, "y", limits[1] / limits[0])
        ax.set_ylim(*limits)
        bins = list(np.geomspace(*limits, _BINS))
        side.hist(values[finite], bins, orientation="horizontal", color=norm)
    if max_norm is not None:
        above = finite & (values > thresholds)
        label = _label(max_norm, above)
        ax.plot(steps, thresholds, "--", color=threshold, label=label)
        ax.plot(steps[above], values[above], ".", color=threshold, ms=4)
        side.axhline(thresholds[-1], ls="--", color=threshold)
    ax.set_xlabel("step")
    ax.set_ylabel("gradient norm")
    if max_norm is not None:
        legend_below(ax)
    return ax


def _label(max_norm: ArrayLike, above: np.ndarray) -> str:
    value = f" {float(np.asarray(max_norm)):.3g}" if np.ndim(max_norm) == 0 else ""
    return f"max_norm{value} clips {above.mean():.2%}"
