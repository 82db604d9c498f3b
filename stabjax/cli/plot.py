"""The command `stabjax plot`, which plots the results of a sweep."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stabjax
from stabjax._arguments import lookup
from stabjax.cli import environment
from stabjax.cli.environment import Subparsers, number

if TYPE_CHECKING:
    import xarray as xr

_NO_AXES = ("seed", "trial", "step", "rung")


def add(commands: Subparsers) -> None:
    """Adds the command to the argument parser."""
    parser = commands.add_parser(
        "plot",
        help="plot the results of a sweep",
        description="Plots the results of a sweep, given its store or dataset. Draws a"
        " heat map for two or more numeric axes, lines for a single one, and curves for"
        " a recorded variable. Categories have their own lines or panels.",
    )
    parser.set_defaults(call=_run)
    parser.add_argument("store", metavar="STORE", help="a folder or a netCDF file")
    parser.add_argument("--variable", default="final_loss", help="default: final_loss")
    for name, text in {
        "x": "horizontal axis (default: the first axis)",
        "y": "vertical axis of a map (default: the second axis)",
        "hue": "axis with one curve, or one panel of a map, for each value",
    }.items():
        parser.add_argument(f"--{name}", metavar="AXIS", help=text)
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kind",
        metavar="KIND",
        help="map, lines, stable (fraction of runs), ranges (of rates) or curves"
        " (default: by the axes)",
    )
    parser.add_argument(
        "--target",
        "--target-loss",
        type=number,
        metavar="VALUE",
        help="value that a successful run reaches, or a line to draw",
    )
    parser.add_argument(
        "--maximize",
        action="store_true",
        default=None,
        help="larger values are better (default: from the problem's metadata)",
    )
    parser.add_argument(
        "--out",
        default="sweep.png",
        metavar="FILE",
        help="a .png, .svg or .pdf file (default: sweep.png)",
    )


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    with environment.errors_in_one_sentence(parser):
        environment.check_output(options.out, environment.PICTURES)
        _draw(load_runs(options.store), options).figure.savefig(options.out)
    print(f"picture: {options.out}")


def load_runs(store: str) -> "xr.Dataset":
    """Returns the runs in the folder of a sweep or in a netCDF file."""
    path = Path(store)
    wanted = "STORE must be the folder of a sweep or a netCDF file"
    if not path.exists():
        raise FileNotFoundError(f"{wanted}, but {store!r} does not exist.")
    if path.is_dir():
        try:
            return stabjax.runs.load(store)
        except FileNotFoundError as error:
            raise ValueError(f"{wanted}, got the folder {store!r}.") from error
    if not path.is_file():  # opening a pipe would block
        raise ValueError(f"{wanted}, got {store!r}.")
    import xarray as xr

    try:
        return xr.load_dataset(store)
    except Exception as error:  # the type depends on the xarray backend
        with path.open("rb") as file:
            is_hdf = file.read(4) == b"\x89HDF"
        hint = (
            " To read NetCDF 4, install the package h5netcdf or netCDF4."
            if is_hdf
            else ""
        )
        raise ValueError(f"{wanted}, got {store!r}.{hint}") from error


def _draw(runs: "xr.Dataset", options: argparse.Namespace) -> Any:
    lookup("--variable", options.variable, dict.fromkeys(map(str, runs.data_vars)))
    values = runs[options.variable]
    axes = _axes(runs, values)
    known = dict.fromkeys([*axes, *map(str, values.dims), *map(str, runs.coords)])
    chosen = _chosen(options, known)
    kind = _kind(options.kind, runs, values, axes, chosen)
    given: dict[str, Any] = {"variable": options.variable, "target": options.target}
    hue = options.hue
    if kind == "curves":
        return stabjax.plot.learning_curves(runs, hue=hue, **given)
    given["maximize"] = options.maximize
    rest = [axis for axis in axes if axis not in chosen.values()]
    x = options.x or next(iter(rest), None)
    if x is None:
        raise ValueError("--x must be given because no axis has more than one value.")
    if kind == "map":
        y = options.y or next((axis for axis in rest if axis != x), None)
        if y is None:
            raise ValueError(
                "--y must be given because no other axis has more than one value."
            )
        return stabjax.plot.heatmap(runs, x=x, y=y, facet=hue, **given)
    if kind == "ranges":
        return stabjax.plot.rate_ranges(runs, x=x, y=options.y or hue, **given)
    if kind == "stable":
        given["variable"] = _measure(options.variable)
        return stabjax.plot.stable_fraction(runs, x=x, hue=hue, **given)
    return stabjax.plot.sensitivity(runs, x=x, hue=hue, **given)


def _chosen(options: argparse.Namespace, known: Mapping[str, object]) -> dict[str, str]:
    """Checks and returns the axes that are selected by options."""
    chosen: dict[str, str] = {}
    for role in ("x", "y", "hue"):
        axis = getattr(options, role)
        if axis is None:
            continue
        lookup(f"--{role}", axis, known)
        for other, taken in chosen.items():
            if taken == axis:
                raise ValueError(
                    f"--{role} must differ from --{other}, got {axis!r} for both."
                )
        chosen[role] = axis
    return chosen


def _axes(runs: "xr.Dataset", values: "xr.DataArray") -> list[str]:
    """Returns the axes with several values, numeric axes first."""
    found = [
        str(name)
        for name, coordinate in values.coords.items()
        if name not in _NO_AXES and coordinate.ndim == 1 and coordinate.size > 1
    ]
    return sorted(found, key=lambda name: runs[name].dtype.kind not in "iuf")


def _kind(
    given: str | None,
    runs: "xr.Dataset",
    values: "xr.DataArray",
    axes: list[str],
    chosen: dict[str, str],
) -> str:
    """Returns the kind of plot, which depends on the axes unless it is given."""
    kinds = ("map", "lines", "stable", "ranges", "curves")
    along_step = "step" in values.dims
    if given is not None:
        lookup("--kind", given, dict.fromkeys(kinds))
        if (given == "curves") != along_step:
            has = "has steps" if along_step else "has no steps"
            raise ValueError(
                f"--kind must fit the variable, which {has}, got {given!r}."
            )
        return given
    if along_step:
        return "curves"
    if values.name == "status":
        return "stable"
    numeric = [
        a for a in axes if runs[a].dtype.kind in "iuf" and a != chosen.get("hue")
    ]
    return "map" if "y" in chosen or len(numeric) > 1 else "lines"


def _measure(variable: str) -> str:
    """Returns the variable that is compared with a target."""
    return "final_loss" if variable == "status" else variable
