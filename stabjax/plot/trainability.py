"""Maps of the trainability boundary: how fast runs converge or diverge."""

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

_SHADES = 256  # for runs that converged, and as many for those that diverged
_PALEST = 0.625  # where `Spectral` turns from yellow to green


def trainability_map(
    dataset: xr.Dataset,
    *,
    x: str,
    y: str,
    variable: str = "convergence_score",
    ax: Axes | None = None,
) -> Axes:
    """Map of a convergence score: green to blue converged, red to yellow diverged.

    The color of a run is its rank among the runs that converged, or among those that
    diverged. So all shades are used equally, and the darkest belong to the runs that
    took longest. Equal scores have one color. The map shows the median run over other
    numeric dimensions, such as the seeds; each combination of words and flags has a
    panel. Trials that were not run are white.

    Args:
      dataset: what `sweep` returns with `summaries=["convergence_score"]`.
      x: the dimension of the horizontal axis. It is logarithmic if its values are
        evenly spaced in the logarithm, and an infinite value stands last.
      y: the dimension of the vertical axis, likewise.
      variable: a score that is negative where a run converged, lower if slower, and
        positive or 0 where it diverged, higher if later.
      ax: where to draw, in one panel, which pools words, too; None makes a new figure.

    Returns:
      The axes, those of the first panel if there are several.

    Raises:
      ValueError: the dataset lacks the variable or a dimension, or there are more than
        24 panels.

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
      whose score, ranks and colors these are, https://arxiv.org/abs/2402.06184
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
    """Returns ranks in [0, 1) of converged, and in [1, 2) of diverged runs; or NaN."""
    ranks = np.full(scores.shape, np.nan)
    for kind, start in ((scores < 0, 0.0), (scores >= 0, 1.0)):
        # Not `argsort`: equal scores share a rank.
        _, order = np.unique(-scores[kind], return_inverse=True)
        last = max(1, int(order.max(initial=0)))
        ranks[kind] = start + (_SHADES - 1) / _SHADES * order / last
    return ranks


def _colormap() -> ListedColormap:
    """Returns both halves of `Spectral`, joined where slow and late meet."""
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
