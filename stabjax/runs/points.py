"""Hyperparameters and seed averages of points in a dataset of runs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from stabjax._arguments import suggestion
from stabjax._outcomes import is_maximized, scores_of
from stabjax._sweep.axes import axis_like, static
from stabjax._sweep.settings import Settings
from stabjax._sweep.spec_json import settings_from_json

NO_HYPERPARAMETERS = ("seed", "step", "evaluated_at", "trial", "rung")


def hyperparameters(point: xr.Dataset) -> dict[str, Any]:
    """Returns the swept values of a single point as Python objects."""
    return {
        str(name): values_of(coordinate)[0]
        for name, coordinate in point.coords.items()
        if name not in NO_HYPERPARAMETERS and not coordinate.dims
    }


def values_of(coordinate: xr.DataArray) -> list[Any]:
    """Returns the values of a coordinate, with functions represented by labels."""
    labels: list[Any] = np.atleast_1d(coordinate.values).tolist()
    if not (text := coordinate.attrs.get("static")):
        return labels
    return list(axis_like(str(coordinate.name), labels, text).values)


def axes_of(point: xr.Dataset, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the axes of a space with a single point.

    Args:
      point: a dataset of runs at one point.
      values: static values by axis name, which replace labels.

    Raises:
      ValueError: If a static value is missing, or `values` contains an unknown axis.
    """
    given = hyperparameters(point)
    for name in values:
        if name not in given:
            known = ", ".join(given)
            raise ValueError(
                f"values must contain axes of the sweep ({known}), got {name!r}."
            )
    for name in given:
        opaque = point[name].attrs.get("static") == ""
        if opaque and name not in values:
            raise ValueError(
                f"axis {name!r} has the label {given[name]!r}, which does not "
                f"determine its value. Pass values={{{name!r}: ...}}."
            )
    return {
        name: static([value]) if "static" in point[name].attrs else [value]
        for name, value in {**given, **values}.items()
    }


def settings_of(
    point: xr.Dataset, values: Mapping[str, Any]
) -> tuple[Settings, dict[str, Any]]:
    """Returns the settings of a sweep and the values of its static axes.

    `values` also contains the function of `stop`, which a file cannot contain.
    """
    recipe = json.loads(point.attrs["recipe"])
    settings, rest = settings_from_json(recipe["settings"]), dict(values)
    if settings.when is None:
        return settings, rest
    if "stop" not in rest:
        raise ValueError(
            f"values must contain the function of stop ({settings.when}). Pass "
            f"values={{'stop': ...}}."
        )
    return settings._replace(when=rest.pop("stop")), rest


def mean_of(
    runs: xr.Dataset, variable: str, over: str | Sequence[str], maximize: bool | None
) -> xr.DataArray:
    """Returns the mean, negated if larger is better; +inf if a run diverged."""
    values = losses_of(runs, variable, maximize)
    return values.mean(dimensions(values, over), skipna=False)


def losses_of(runs: xr.Dataset, variable: str, maximize: bool | None) -> xr.DataArray:
    """Returns a variable, negated if larger is better; +inf if a run diverged."""
    check_variable(runs, variable)
    larger = is_maximized(runs, variable, maximize)
    values = scores_of(runs, variable, larger)
    return -values if larger else values


def check_variable(runs: xr.Dataset, variable: str) -> None:
    """Raises an error unless the variable has one value per run."""
    trials = runs["status"].dims
    known = [str(n) for n, v in runs.data_vars.items() if set(v.dims) <= set(trials)]
    if variable not in known:
        raise ValueError(
            f"variable must be one with a value for each run ({', '.join(known)}), "
            f"got {variable!r}.{suggestion(variable, known)}"
        )


def dimensions(values: xr.DataArray, over: str | Sequence[str]) -> list[str]:
    """Returns the dimensions to reduce, omitting `seed` if the dataset lacks it."""
    names = [over] if isinstance(over, str) else list(over)
    for name in names:
        if name not in values.dims and name != "seed":
            known = [*map(str, values.dims)]
            raise ValueError(
                f"over must be dimensions of the dataset ({', '.join(known)}), got "
                f"{name!r}.{suggestion(name, known)}"
            )
    return [name for name in names if name in values.dims]
