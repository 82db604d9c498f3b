"""Extracting arrays and labels from a dataset of runs."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from stabjax._arguments import suggestion
from stabjax.plot.cells import is_number, text_of


def variable_of(dataset: xr.Dataset, name: str, **dims: str | None) -> xr.DataArray:
    """Returns a variable that has these dimensions.

    Args:
      dataset: a dataset of runs.
      name: the name of the variable.
      **dims: dimensions by the argument that names them, for messages.

    Raises:
      ValueError: If the dataset does not have the variable, or the variable does not
        have a dimension.
    """
    known = [*map(str, dataset.data_vars)]
    if name not in known:
        raise ValueError(
            f"variable must be one of the dataset's ({', '.join(known)}), got "
            f"{name!r}.{suggestion(name, known)}"
        )
    known = [*map(str, dataset[name].dims)]
    for argument, dim in dims.items():
        if dim is not None and dim not in known:
            raise ValueError(
                f"{argument} must be a dimension of {name} ({', '.join(known)}), got "
                f"{dim!r}.{suggestion(dim, known)}"
            )
    return dataset[name]


def categories_of(data: xr.DataArray, *shown: str | None) -> list[str]:
    """Returns the categorical dimensions (strings and booleans) with several values."""
    return [
        str(dim)
        for dim, size in data.sizes.items()
        if size > 1
        and dim not in (*shown, "trial", "step")
        and dim in data.coords
        and not is_number(data[dim].to_numpy())
    ]


def name_pooled(ax: Axes, words: str, data: xr.DataArray, *shown: str | None) -> None:
    """Lists the pooled dimensions and their sizes in the title."""
    pooled_dims = [
        f"{dim} ({size})"
        for dim, size in data.sizes.items()
        if dim not in shown and size > 1
    ]
    if pooled_dims:
        ax.set_title(f"{words} over {', '.join(pooled_dims)}", fontsize="small")


def label_at(coordinate: xr.DataArray, position: int) -> str:
    """Returns the label of a value: the word itself, or a number with its name."""
    value = coordinate.to_numpy()[position]
    if isinstance(value, str):
        return value
    return f"{label_of(coordinate)} = {text_of(value)}"


def pooled(data: xr.DataArray, *dims: str) -> np.ndarray:
    """Returns the values with all other dimensions pooled into the last axis."""
    values = data.transpose(*dims, ...).to_numpy()
    return values.reshape(*values.shape[: len(dims)], -1)


def success_in_words(target: float | None, maximize: bool) -> str:
    """Returns what a successful run does, for a label."""
    if target is None:
        return "do not diverge"
    return f"end at {target:.2g} or {'above' if maximize else 'below'}"


def counts(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts the ones and the non-NaN values along the last axis."""
    return np.nansum(runs, axis=-1), (~np.isnan(runs)).sum(axis=-1)


def percentile(values: np.ndarray, percent: float) -> np.ndarray:
    """Returns a percentile along the last axis, ignoring NaN.

    The percentile is not interpolated because neighboring values can be infinite.
    """
    count = (~np.isnan(values)).sum(axis=-1, keepdims=True)
    position = np.round((np.maximum(count, 1) - 1) * percent / 100).astype(int)
    ordered = np.sort(values, axis=-1)  # NaN is sorted to the end
    found: np.ndarray = np.take_along_axis(ordered, position, axis=-1)[..., 0]
    return found


def label_of(data: xr.DataArray) -> str:
    """Returns the long name or the name of a variable, followed by its units."""
    units = f" ({data.attrs['units']})" if "units" in data.attrs else ""
    return str(data.attrs.get("long_name", str(data.name).replace("_", " "))) + units
