"""Lines of a plot: their runs, styles and labels."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

from stabjax.plot.axes import MANY, shades, styles
from stabjax.plot.cells import is_scale
from stabjax.plot.data import categories_of, label_at, pooled

Line = tuple[str | None, np.ndarray, dict[str, Any]]


def split(
    data: xr.DataArray, hue: str | None, *shown: str | None
) -> tuple[str | None, list[str]]:
    """Returns the dimension of the lines and the dimensions of the panels.

    Categorical dimensions are not pooled. If `hue` is None, the first of them is used
    for the lines. The others are used for the panels.
    """
    categories = categories_of(data, hue, *shown)
    if hue is None and categories:
        return categories[0], categories[1:]
    return hue, categories


def lines_of(data: xr.DataArray, x: str, hue: str | None) -> Iterator[Line]:
    """Yields the label, an array of (x, all runs) and the style of each line.

    More than seven numeric values are drawn in shades, and only five have a label.
    """
    if hue is None:
        yield None, pooled(data, x), next(styles())
        return
    number = data.sizes[hue]
    many = number > MANY and is_scale(data[hue].to_numpy())
    shown = np.linspace(0, number - 1, 5).round() if many else np.arange(number)
    looks = shades(number) if many else styles()
    for position, style in zip(range(number), looks, strict=False):
        label = label_at(data[hue], position)
        label = label if position in shown else f"_{label}"
        yield label, pooled(data.isel({hue: position}), x), style
