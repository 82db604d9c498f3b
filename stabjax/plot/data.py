"""Extracting arrays and labels from a dataset of runs."""

from collections.abc import Iterator

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from stabjax.plot.cells import text_of

# Variables that describe divergence and keep their values for diverged runs.
_OF_DIVERGENCE = ("status", "diverged_at")


def variable_of(dataset: xr.Dataset, name: str, *dims: str | None) -> xr.DataArray:
    """Returns a variable and checks that it has the given dimensions."""
    if name not in dataset.data_vars:
        known = ", ".join(map(str, dataset.data_vars))
        raise ValueError(f"the dataset has no variable {name!r}. Choose from {known}.")
    for dim in dims:
        if dim is not None and dim not in dataset[name].dims:
            known = ", ".join(map(str, dataset[name].dims))
            raise ValueError(f"{name} has no dimension {dim!r}. Choose from {known}.")
    return dataset[name]


def score_of(dataset: xr.Dataset, name: str, maximize: bool) -> xr.DataArray:
    """Returns a variable, replacing the values of diverged runs by +inf or -inf.

    Without the replacement, a diverged run would keep the accuracy of its final
    parameters, for example.
    """
    data = variable_of(dataset, name).astype(float)
    status = dataset.get("status")
    if name in _OF_DIVERGENCE or status is None or not set(status.dims) <= {*data.dims}:
        return data
    return data.where(status != 1, -np.inf if maximize else np.inf)


def name_pooled(ax: Axes, words: str, data: xr.DataArray, *shown: str | None) -> None:
    """Lists the pooled dimensions and their sizes in the title."""
    pooled_dims = [
        f"{dim} ({size})"
        for dim, size in data.sizes.items()
        if dim not in shown and size > 1
    ]
    if pooled_dims:
        ax.set_title(f"{words} over {', '.join(pooled_dims)}", fontsize="small")


def curves_of(
    data: xr.DataArray, x: str, hue: str | None
) -> Iterator[tuple[str | None, np.ndarray]]:
    """Yields a label and an array of shape (x, runs) for each value of `hue`."""
    if hue is None:
        yield None, pooled(data, x)
        return
    for position, value in enumerate(data[hue].to_numpy()):
        named = isinstance(value, str)
        label = value if named else f"{label_of(data[hue])} = {text_of(value)}"
        yield label, pooled(data.isel({hue: position}), x)


def pooled(data: xr.DataArray, *dims: str) -> np.ndarray:
    """Returns the values with all other dimensions pooled into the last axis."""
    values = data.transpose(*dims, ...).to_numpy()
    return values.reshape(*values.shape[: len(dims)], -1)


def success_of(
    dataset: xr.Dataset, target_loss: float | None, *dims: str | None
) -> tuple[xr.DataArray, str]:
    """Returns the success of each run and a description of the criterion.

    A run is successful (1) if it does not diverge or, if there is a target, if its
    final loss reaches the target. Other runs are 0, and NaN if they were not run.
    """
    if target_loss is None:
        status = variable_of(dataset, "status", *dims)
        return (status == 0).where((status == 0) | (status == 1)), "do not diverge"
    loss = variable_of(dataset, "final_loss", *dims)
    words = f"reach a loss of {target_loss:.2g}"
    return (loss <= target_loss).where(loss.notnull()), words


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


def best_of(values: np.ndarray, maximize: bool = False) -> tuple[int, ...] | None:
    """Returns the index of the best finite value, or the middle one if values tie."""
    worst = -np.inf if maximize else np.inf
    finite = np.where(np.isfinite(values), values, worst)
    if not np.isfinite(finite).any():
        return None
    ties = np.argwhere(finite == (finite.max() if maximize else finite.min()))
    distance = np.abs(ties - ties.mean(axis=0)).sum(axis=1)
    return tuple(ties[np.argmin(distance)])


def label_of(data: xr.DataArray) -> str:
    """Returns the long name or the name of a variable, followed by its units."""
    units = f" ({data.attrs['units']})" if "units" in data.attrs else ""
    return str(data.attrs.get("long_name", str(data.name).replace("_", " "))) + units
