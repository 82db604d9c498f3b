"""Binning random samples, whose axes vary along `trial`."""

import math
from typing import Any

import numpy as np
import xarray as xr

from stabjax.plot.cells import is_number

_BINS = 12  # more would leave too few of a hundred trials in each

_Array = np.ndarray[Any, Any]


def binned(dataset: xr.Dataset, *names: str | None) -> xr.Dataset:
    """Returns a dataset in which sampled axes are dimensions, for plots along them.

    Trials are divided into bins with equal numbers of trials. An axis with at most 12
    distinct values has a bin for each of them, as do categories and infinite values.
    Categories that vary along `trial` also become dimensions, so that they are not
    pooled. Bins of different sizes are filled with missing runs.

    Args:
      dataset: a dataset of runs.
      *names: dimensions or coordinates that are shown in the plot.
    """
    along = [str(n) for n, c in dataset.coords.items() if c.dims == ("trial",)]
    shown = [name for name in along if name in names and name != "trial"]
    if not shown:
        return dataset
    categories = [n for n in along if not is_number(dataset[n].to_numpy())]
    shown = list(dict.fromkeys([*shown, *categories]))
    bins = {name: _bins(dataset[name].to_numpy()) for name in shown}
    trials = _table([of for _, of in bins.values()], [len(c) for c, _ in bins.values()])
    index = xr.DataArray(trials, dims=(*shown, "trial"))
    attributes = {name: dataset[name].attrs for name in shown}
    picked = dataset.drop_vars(along).isel(trial=index)
    held = index >= 0
    found = picked.where(held)
    found["status"] = picked["status"].where(held, -1)
    return found.assign_coords(
        {n: (n, centers, attributes[n]) for n, (centers, _) in bins.items()}
    )


def _bins(values: _Array) -> tuple[_Array, _Array]:
    """Returns the center of each bin and the bin of each value."""
    distinct, position = np.unique(values, return_inverse=True)
    if not is_number(values) or len(distinct) <= _BINS:
        return distinct, position
    finite = np.isfinite(values)
    others, place = np.unique(values[~finite], return_inverse=True)
    count = int(finite.sum())
    number = min(_BINS, math.isqrt(count))
    rank = np.empty(count, int)
    rank[np.argsort(values[finite], kind="stable")] = np.arange(count)
    of = np.empty(len(values), int)
    of[finite], of[~finite] = rank * number // count, number + place
    medians = [np.median(values[of == bin_]) for bin_ in range(number)]
    centers = np.array([*medians, *others])
    order = np.argsort(centers)  # -inf first
    return centers[order], np.argsort(order)[of]


def _table(bins: list[_Array], sizes: list[int]) -> _Array:
    """Returns the trials in each combination of bins, padded with -1."""
    cell = np.ravel_multi_index(tuple(bins), tuple(sizes))
    order = np.argsort(cell, kind="stable")
    counts = np.bincount(cell, minlength=math.prod(sizes))
    place = np.arange(len(cell)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((len(counts), counts.max()), -1)
    table[cell[order], place] = order
    return table.reshape(*sizes, -1)
