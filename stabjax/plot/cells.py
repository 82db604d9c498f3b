"""Where the values of a coordinate stand on the axis of a picture."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

_Array = np.ndarray[Any, Any]


class Cells(NamedTuple):
    """Where the values of a coordinate stand on an axis."""

    at: _Array  # their centres
    edges: _Array  # of the cells, a gap among them if there is an infinite value
    gap: int | None  # position of that gap
    log: bool
    labels: list[str] | None  # of what is no finite number


def cells_of(coordinate: xr.DataArray) -> Cells:
    """Cells around the values: even, or even in the logarithm, or just side by side."""
    values = coordinate.to_numpy()
    if not is_scale(values):
        at = np.arange(len(values), dtype=float)
        edges = np.arange(len(at) + 1) - 0.5
        return Cells(at, edges, None, False, list(map(text_of, values)))
    values = values.astype(float)
    finite = values[np.isfinite(values)]
    log = _even_in_log(finite)
    at = np.log10(finite) if log else finite
    half = np.median(np.diff(at)) / 2
    edges = np.concatenate([at[:1] - half, (at[1:] + at[:-1]) / 2, at[-1:] + half])
    gap = None
    if len(finite) < len(values):  # the infinite one, last as values grow
        gap = len(finite)
        at = np.append(at, edges[-1] + 2 * half)
        edges = np.append(edges, edges[-1] + np.array([1.0, 3.0]) * half)
    if log:
        at, edges = 10.0**at, 10.0**edges
    return Cells(at, edges, gap, log, None)


def is_scale(values: _Array) -> bool:
    """Whether these are numbers that grow, at least two of them finite."""
    if values.dtype.kind not in "iuf" or not np.all(np.diff(values) > 0):
        return False
    return bool(np.isfinite(values).sum() > 1)


def _even_in_log(values: _Array) -> bool:
    """Whether positive values grow by a factor rather than by a difference."""
    if values[0] <= 0:
        return False
    if len(values) == 2:
        return bool(values[1] >= 10 * values[0])
    places = [
        (np.median(at) - at[0]) / (at[-1] - at[0]) for at in (values, np.log(values))
    ]
    linear, logarithmic = np.abs(np.array(places) - 0.5)
    return bool(logarithmic < linear)


def with_gaps(values: _Array, across: Cells, up: Cells) -> _Array:
    """The cells' values as rows, with NaN in the gaps."""
    if across.gap is not None:
        values = np.insert(values, across.gap, np.nan, axis=1)
    if up.gap is not None:
        values = np.insert(values, up.gap, np.nan, axis=0)
    return np.ma.masked_invalid(values)


def border_of(diverged: Any, across: Cells, up: Cells) -> Iterator[Any]:
    """The edges between cells that diverged and cells that held."""
    flags = diverged.filled(np.nan)
    x, y = across.edges, up.edges
    for row, column in np.argwhere(np.abs(np.diff(flags, axis=1)) == 1):
        yield [(x[column + 1], y[row]), (x[column + 1], y[row + 1])]
    for row, column in np.argwhere(np.abs(np.diff(flags, axis=0)) == 1):
        yield [(x[column], y[row + 1]), (x[column + 1], y[row + 1])]


def text_of(value: Any) -> str:
    """A value as a label: a number in three digits, anything else as it is."""
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | np.number
    ):
        return str(value)
    return "∞" if value == np.inf else f"{value:.3g}"
