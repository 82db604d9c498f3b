"""The command `stabjax plot`, which plots the results of a sweep."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stabjax
from stabjax._arguments import lookup
from stabjax.cli import environment
from stabjax.cli.environment import Subparsers

if TYPE_CHECKING:
    import xarray as xr


def add(commands: Subparsers) -> None:
    """Adds the command to the argument parser."""
    parser = commands.add_parser(
        "plot",
        help="plot the results of a sweep",
        description="Plots the results of a sweep, given its store or dataset. Draws a"
        " heat map for two or more axes, the fraction of stable runs for a single axis,"
        " and curves for a recorded variable.",
    )
    parser.set_defaults(call=_run)
    parser.add_argument("store", metavar="STORE", help="a folder or a netCDF file")
    parser.add_argument("--variable", default="final_loss", help="default: final_loss")
    for name, text in {
        "x": "horizontal axis (default: the first axis)",
        "y": "vertical axis (default: the second axis)",
        "hue": "axis with one curve for each value",
    }.items():
        parser.add_argument(f"--{name}", metavar="AXIS", help=text)
    parser.add_argument(
        "--out", default="sweep.png", metavar="FILE", help="default: sweep.png"
    )


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    with environment.errors_in_one_sentence(parser):
        environment.check_output(options.out)
        _draw(_load(options.store), options).figure.savefig(options.out)
    print(f"picture: {options.out}")


def _load(store: str) -> "xr.Dataset":
    if Path(store).is_dir():
        return stabjax.runs.load(store)
    import xarray as xr

    try:
        return xr.load_dataset(store)
    except FileNotFoundError:
        raise
    except Exception as error:  # the type depends on the xarray backend
        raise ValueError(
            f"STORE must be the folder of a sweep or a netCDF file, got {store!r}. "
            "To read NetCDF 4, install the package h5netcdf or netCDF4."
        ) from error


def _draw(runs: "xr.Dataset", options: argparse.Namespace) -> Any:
    lookup("--variable", options.variable, dict.fromkeys(map(str, runs.data_vars)))
    values = runs[options.variable]
    for name in ("x", "y", "hue"):
        if (axis := getattr(options, name)) is not None:
            lookup(f"--{name}", axis, dict.fromkeys(map(str, runs.coords)))
    if "step" in values.dims:
        return stabjax.plot.learning_curves(
            runs, variable=options.variable, hue=options.hue
        )
    known = [str(name) for name, size in values.sizes.items() if size > 1]
    axes = [name for name in known if name not in ("seed", "trial")]
    # Numeric axes come first because their values are ordered.
    axes.sort(key=lambda name: runs[name].dtype.kind not in "iuf")
    x = options.x or next(iter(axes), None)
    if x is None:
        raise ValueError("--x must be given because no axis has more than one value.")
    y = options.y or next((name for name in axes if name != x), None)
    if y is None or options.variable == "status":
        return stabjax.plot.stable_fraction(runs, x=x, hue=options.hue)
    return stabjax.plot.heatmap(runs, x=x, y=y, variable=options.variable)
