"""Maps of the boundary between convergence and divergence."""

from functools import partial

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize

from stabjax.plot.axes import panels, scale
from stabjax.plot.cells import cells_of, infinity_last, with_gaps
from stabjax.plot.data import (
    categories_of,
    label_of,
    name_pooled,
    percentile,
    pooled,
    variable_of,
)
from stabjax.plot.facets import in_panels

_SHADES = 256  # number of colors for converged runs, and for diverged runs
_PALEST = 0.625  # transition from yellow to green in `Spectral`


def trainability_map(
    dataset: xr.Dataset,
    *,
    x: str,
    y: str,
    variable: str = "convergence_score",
    ax: Axes | None = None,
) -> Axes:
    """Plots a convergence score as a map of the trainability boundary.

    Converged runs are green to blue, and diverged runs are red to yellow. The color
    encodes the rank of a run among all converged or all diverged runs, so every shade
    is used equally often. The darkest shades mark the runs that took longest. Runs with
    equal scores have the same color. The map shows the median over other numeric
    dimensions, such as the seeds. Each combination of categories has its own panel.
    Missing runs are white.

    Args:
      dataset: a dataset returned by `sweep` with `summaries=["convergence_score"]`.
      x: dimension for the horizontal axis. The axis is logarithmic if the values are
        logarithmically spaced. An infinite value is drawn at the end.
      y: dimension for the vertical axis, scaled in the same way.
      variable: a score that is negative for converged runs and non-negative for
        diverged runs. Lower negative scores mean slower convergence, and higher
        positive scores mean later divergence.
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
      ...     stabjax.problems.quadratic(),
      ...     lambda rate, decay: optax.sgd(rate, momentum=decay),
      ...     stabjax.grid(rate=[0.1, 1.0, 10.0], decay=[0.0, 0.9]),
      ...     steps=40, summaries=["convergence_score"],
      ... )
      >>> ax = stabjax.plot.trainability_map(runs, x="rate", y="decay")
      >>> print(ax.get_xscale(), ax.get_yscale())
      log linear

    References:
      Sohl-Dickstein, *The boundary of neural network trainability is fractal*, 2024,
      https://arxiv.org/abs/2402.06184 (the score, the ranking and the colors).
    """
    dataset = infinity_last(dataset, x, y)
    data = variable_of(dataset, variable, x=x, y=y)
    facets = categories_of(data, x, y)
    if ax is None and facets:
        return in_panels(
            dataset, facets, partial(trainability_map, x=x, y=y, variable=variable)
        )
    ax = ax or panels(1, width=5.4)[0]
    across, up = cells_of(dataset[x]), cells_of(dataset[y])
    scores = percentile(pooled(data, y, x).astype(float), 50)
    colors = ax.pcolormesh(
        across.edges,
        up.edges,
        with_gaps(_ranks(scores), across, up),
        norm=Normalize(0, 2),
        cmap=_colormap(),
        rasterized=True,
    )
    scale(ax, "x", across)
    scale(ax, "y", up)
    ax.set_xlabel(label_of(dataset[x]))
    ax.set_ylabel(label_of(dataset[y]))
    name_pooled(ax, "median run", data, x, y)
    _add_colorbar(ax, colors)
    return ax


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Returns ranks in [0, 1) for converged runs and in [1, 2) for diverged runs."""
    ranks = np.full(scores.shape, np.nan)
    for kind, start in ((scores < 0, 0.0), (scores >= 0, 1.0)):
        # `unique` gives equal scores the same rank, unlike `argsort`.
        _, order = np.unique(-scores[kind], return_inverse=True)
        # The largest rank is one color below the first color of the other half.
        last = max(1, int(order.max(initial=0)))
        ranks[kind] = start + (_SHADES - 1) / _SHADES * order / last
    return ranks


def _colormap() -> ListedColormap:
    """Joins the two halves of `Spectral` at the boundary between slow and late runs."""
    shades = np.linspace(_PALEST, 1.0, _SHADES)
    spectral = colormaps["Spectral"]
    both = np.concatenate([spectral(shades), spectral(shades - _PALEST)])
    return ListedColormap(both)


def _add_colorbar(ax: Axes, colors: ScalarMappable) -> None:
    bar = ax.figure.colorbar(colors, ax=ax, aspect=30, pad=0.02)
    words = {0.0: "fast", 0.5: "converged", 0.95: "slow"}
    words |= {1.05: "late", 1.5: "diverged", 2.0: "early"}
    bar.set_ticks(list(words), labels=list(words.values()))
    bar.ax.tick_params(length=0, labelsize="small")
    bar.ax.axhline(1.0, color="white", lw=1.5)
