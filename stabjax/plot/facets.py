"""Figures with a panel for each combination of categories."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import xarray as xr
from matplotlib.axes import Axes

from stabjax.plot.axes import panels
from stabjax.plot.data import label_at

_COLUMNS = 3
_MOST = 24  # more panels are too small to read


def in_panels(
    dataset: xr.Dataset,
    dims: Sequence[str],
    draw: Callable[..., Axes],
    **arguments: Any,
) -> Axes:
    """Draws a panel for each combination, with a shared vertical axis.

    The arguments are passed to `draw`.

    Returns:
      The Axes of the first panel.

    Raises:
      ValueError: If there are more than 24 combinations.
    """
    sizes = [dataset.sizes[dim] for dim in dims]
    number = math.prod(sizes)
    if number > _MOST:
        raise ValueError(
            f"dataset must have at most {_MOST} combinations of {' and '.join(dims)}, "
            f"got {number}. Select some of them with dataset.sel(...)."
        )
    columns = min(_COLUMNS, number)
    axes = panels(columns, math.ceil(number / columns))
    used = axes[:number]
    positions = itertools.product(*map(range, sizes))
    for ax, position in zip(used, positions, strict=True):
        part = dataset.isel(dict(zip(dims, position, strict=True)))
        draw(part, ax=ax, **arguments)
        labels = [
            label_at(dataset[dim], at) for dim, at in zip(dims, position, strict=True)
        ]
        pooled = ax.get_title()
        title = "\n".join(filter(None, [", ".join(labels), pooled]))
        ax.set_title(title, fontsize="small")
    lows, highs = zip(*(ax.get_ylim() for ax in used), strict=True)
    for ax in used:
        ax.set_ylim(min(lows), max(highs))
    for ax in axes[number:]:
        ax.set_axis_off()
    return axes[0]
