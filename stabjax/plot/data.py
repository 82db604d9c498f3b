"""What a dataset holds, as the arrays and the labels of a picture."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

from stabjax.plot.cells import text_of

Array = np.ndarray[Any, Any]


def variable_of(dataset: xr.Dataset, name: str, *dims: str | None) -> xr.DataArray:
    """A variable that has the dimensions, or an error that says what there is."""
    if name not in dataset.data_vars:
        known = ", ".join(map(str, dataset.data_vars))
        raise ValueError(f"the dataset has no variable {name!r}, only {known}.")
    for dim in dims:
        if dim is not None and dim not in dataset[name].dims:
            known = ", ".join(map(str, dataset[name].dims))
            raise ValueError(f"{name} has no dimension {dim!r}, only {known}.")
    return dataset[name]


def curves_of(
    data: xr.DataArray, x: str, hue: str | None
) -> Iterator[tuple[str | None, Array]]:
    """For each value of `hue` its label and an array of (x, all runs)."""
    if hue is None:
        yield None, pooled(data, x)
        return
    for position, value in enumerate(data[hue].to_numpy()):
        named = isinstance(value, str)
        label = value if named else f"{label_of(data[hue])} = {text_of(value)}"
        yield label, pooled(data.isel({hue: position}), x)


def pooled(data: xr.DataArray, *dims: str) -> Array:
    """The values over these dimensions, and over all others together as the last."""
    values = data.transpose(*dims, ...).to_numpy()
    return values.reshape(*values.shape[: len(dims)], -1)


def trained(
    dataset: xr.Dataset, target_loss: float | None, *dims: str | None
) -> tuple[xr.DataArray, str]:
    """1 for a run that holds, or ends at the target, and 0 for another; and in words.

    NaN where nothing was run.
    """
    if target_loss is None:
        status = variable_of(dataset, "status", *dims)
        return (status == 0).where((status == 0) | (status == 1)), "do not diverge"
    loss = variable_of(dataset, "final_loss", *dims)
    words = f"end at {target_loss:.2g} or below"
    return (loss <= target_loss).where(loss.notnull()), words


def counts(runs: Array) -> tuple[Array, Array]:
    """How many along the last axis are 1, and how many are known."""
    return np.nansum(runs, axis=-1), (~np.isnan(runs)).sum(axis=-1)


def percentile(values: Array, percent: float) -> Array:
    """A run's own value, not one between two: one of them may be infinite.

    Of the runs that are known, along the last axis; NaN where none is.
    """
    known = (~np.isnan(values)).sum(axis=-1, keepdims=True)
    position = np.round((np.maximum(known, 1) - 1) * percent / 100).astype(int)
    ordered: Array = np.sort(values, axis=-1)  # NaN last
    return np.take_along_axis(ordered, position, axis=-1)[..., 0]


def smallest_of(values: Array) -> tuple[int, ...] | None:
    """Where the smallest finite value is, in the middle of its equals."""
    finite = np.where(np.isfinite(values), values, np.inf)
    if not np.isfinite(finite).any():
        return None
    equals = np.argwhere(finite <= finite.min())
    distance = np.abs(equals - equals.mean(axis=0)).sum(axis=1)
    return tuple(equals[np.argmin(distance)])


def label_of(data: xr.DataArray) -> str:
    """What an axis is called: the long name and the units, or the name."""
    units = f" ({data.attrs['units']})" if "units" in data.attrs else ""
    return str(data.attrs.get("long_name", str(data.name).replace("_", " "))) + units
