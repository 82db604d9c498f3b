"""Converting coordinate values to positions and cells on a plot axis."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr

Segment = list[tuple[float, float]]


class Cells(NamedTuple):
    """The positions and cell edges of coordinate values on a plot axis."""

    at: np.ndarray  # the cell centers
    edges: np.ndarray  # includes a gap before the cell of an infinite value
    gap: int | None  # index of the gap
    log: bool
    labels: list[str] | None  # None if all values are finite numbers


def cells_of(coordinate: xr.DataArray) -> Cells:
    """Returns cells for values with linear, logarithmic or irregular spacing."""
    values = coordinate.to_numpy()
    if not is_scale(values):
        at = np.arange(len(values), dtype=float)
        edges = np.arange(len(at) + 1) - 0.5
        return Cells(at, edges, None, False, list(map(text_of, values)))
    values = values.astype(float)
    finite = values[np.isfinite(values)]
    log = _even_in_log(finite)
    at = np.log10(finite) if log else finite
    # The median is robust to a single outlier, which would widen the outer cells.
    half = np.median(np.diff(at)) / 2
    edges = np.concatenate([at[:1] - half, (at[1:] + at[:-1]) / 2, at[-1:] + half])
    gap = None
    if len(finite) < len(values):  # values are sorted, so an infinite one is last
        gap = len(finite)
        at = np.append(at, edges[-1] + 2 * half)
        edges = np.append(edges, edges[-1] + np.array([1.0, 3.0]) * half)
    if log:
        at, edges = 10.0**at, 10.0**edges
    return Cells(at, edges, gap, log, None)


def is_number(values: np.ndarray) -> bool:
    """Returns whether the values are numbers, as opposed to strings or booleans."""
    return values.dtype.kind in "iuf"


def is_scale(values: np.ndarray) -> bool:
    """Returns whether the values increase and at least two of them are finite."""
    if not is_number(values) or not np.all(np.diff(values) > 0):
        return False
    return bool(np.isfinite(values).sum() > 1)


def infinity_last(dataset: xr.Dataset, *dims: str | None) -> xr.Dataset:
    """Sorts all axes that contain an infinite value.

    An infinite threshold is then at the same end of every plot, regardless of the order
    in the grid.
    """
    for dim in dims:
        values = dataset[dim].to_numpy() if dim in dataset.dims else np.empty(0)
        if is_number(values) and np.isinf(values).any():
            dataset = dataset.sortby(str(dim))
    return dataset


def _even_in_log(values: np.ndarray) -> bool:
    """Returns whether positive values have logarithmic rather than linear spacing."""
    if values[0] <= 0:
        return False
    if len(values) == 2:
        return bool(values[1] >= 10 * values[0])
    # In an evenly spaced grid, the median is halfway between the ends.
    places = [
        (np.median(at) - at[0]) / (at[-1] - at[0]) for at in (values, np.log(values))
    ]
    linear, logarithmic = np.abs(np.array(places) - 0.5)
    return bool(logarithmic < linear)


def with_gaps(values: np.ndarray, across: Cells, up: Cells) -> np.ma.MaskedArray:
    """Inserts gaps into the values of the cells and masks gaps and NaN."""
    if across.gap is not None:
        values = np.insert(values, across.gap, np.nan, axis=1)
    if up.gap is not None:
        values = np.insert(values, up.gap, np.nan, axis=0)
    return np.ma.masked_invalid(values)


def border_of(
    diverged: np.ma.MaskedArray, across: Cells, up: Cells
) -> Iterator[Segment]:
    """Yields the edges between diverged and stable cells."""
    flags = diverged.filled(np.nan)  # comparisons with NaN do not give a border
    x, y = across.edges.tolist(), up.edges.tolist()
    for row, column in np.argwhere(np.abs(np.diff(flags, axis=1)) == 1):
        yield [(x[column + 1], y[row]), (x[column + 1], y[row + 1])]
    for row, column in np.argwhere(np.abs(np.diff(flags, axis=0)) == 1):
        yield [(x[column], y[row + 1]), (x[column + 1], y[row + 1])]


def text_of(value: object) -> str:
    """Formats a label, with three significant digits for numbers."""
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | np.number
    ):
        return str(value)
    return "∞" if value == np.inf else f"{value:.3g}"
