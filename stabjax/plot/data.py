"""What a dataset holds, as the arrays and the labels of a picture."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

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
    values = data[hue].to_numpy() if hue else [None]
    for position, value in enumerate(values):
        one = data.isel({hue: position}) if hue else data
        named = isinstance(value, str) or value is None
        label = value if named else f"{label_of(data[hue])} = {value:.3g}"
        yield label, pooled(one, x)


def pooled(data: xr.DataArray, *dims: str) -> Array:
    """The values over these dimensions, and over all others together as the last."""
    values = data.transpose(*dims, ...).to_numpy()
    return values.reshape(*values.shape[: len(dims)], -1)


def label_of(data: xr.DataArray) -> str:
    """What an axis is called: the long name and the units, or the name."""
    units = f" ({data.attrs['units']})" if "units" in data.attrs else ""
    return str(data.attrs.get("long_name", str(data.name).replace("_", " "))) + units
