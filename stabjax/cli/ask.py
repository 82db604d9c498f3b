"""`stabjax ask`: an answer from the runs of a sweep."""

import argparse
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import stabjax
from stabjax._arguments import lookup
from stabjax.cli import environment
from stabjax.cli.environment import Subparsers
from stabjax.cli.plot import load_runs
from stabjax.cli.values import parse_pair, parse_value

if TYPE_CHECKING:
    import xarray as xr

# The questions, and whether each is about an axis.
_QUESTIONS = {
    "best": False,
    "optimum": True,
    "compare": True,
    "sensitivity": True,
    "scaling": True,
    "importance": False,
    "clipping": False,
}


def add(commands: Subparsers) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "ask",
        help="answer a question from the runs of a sweep",
        description="Answers a question from a sweep's store or dataset, such as:"
        " stabjax ask STORE optimum peak_value schedule=cosine. NAME=VALUE selects the"
        " runs with this value. Questions: best (which point?), optimum AXIS (its best"
        " value), compare AXIS (do its values differ?), sensitivity AXIS (what does a"
        " wrong value cost?),"
        " scaling AXIS --over SIZES (how does its best value move?), importance (which"
        " axes matter?), clipping (what does the threshold do?).",
    )
    parser.set_defaults(call=_run)
    parser.add_argument("store", metavar="STORE", help="a folder, or a netCDF file")
    parser.add_argument("question", metavar="QUESTION", help="such as optimum")
    parser.add_argument("pairs", nargs="*", metavar="AXIS, NAME=VALUE")
    parser.add_argument("--variable", metavar="NAME", help="default: final_loss")
    parser.add_argument(
        "--maximize", action="store_true", help="whether larger values are better"
    )
    parser.add_argument("--over", metavar="AXIS,AXIS", help="sizes, for scaling")
    parser.add_argument("--baseline", metavar="VALUE", help="for compare")
    parser.add_argument(
        "--initial-loss", type=float, metavar="LOSS", help="for sensitivity"
    )
    parser.add_argument("--name", metavar="NAME", help="of with_metrics, for clipping")
    parser.add_argument("--json", action="store_true", help="print JSON, not text")
    parser.add_argument("--out", metavar="FILE", help="draw a picture of the answer")


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    with environment.errors_in_one_sentence(parser):
        environment.check_output(options.out)
        about_axis = lookup("QUESTION", options.question, _QUESTIONS)
        axes = [word for word in options.pairs if "=" not in word]
        if len(axes) != about_axis:
            wanted = "an AXIS" if about_axis else "no AXIS"
            raise ValueError(f"{options.question} needs {wanted}, got {axes}.")
        pairs = [parse_pair(word) for word in options.pairs if "=" in word]
        runs = _selected(load_runs(options.store), dict(pairs))
        ask = getattr(stabjax.runs, options.question)
        arguments = _arguments(options, runs, axes)
        for name in arguments.keys() - inspect.signature(ask).parameters.keys():
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} must not be given for {options.question}.")
        found = ask(runs, *axes, **arguments)
        if options.out:
            figure: Any = stabjax.plot.answer(found).figure
            figure.savefig(options.out)
    if options.json:
        print(json.dumps(_finite(found.to_dict()), indent=2, allow_nan=False))
    else:
        print(found)


def _selected(runs: "xr.Dataset", values: Mapping[str, str]) -> "xr.Dataset":
    """Returns the runs with the given values; numbers choose the nearest."""
    for name, text in values.items():
        lookup("NAME", name, dict.fromkeys(map(str, runs.dims)))
        known, wanted = runs[name].values, parse_value(text)
        if known.dtype.kind in "iuf" and isinstance(wanted, int | float):
            near = np.flatnonzero(np.isclose(known, wanted, rtol=1e-2, atol=0.0))
        else:
            near = np.flatnonzero(known.astype(str) == text)
        if len(near) != 1:
            shown = ", ".join(map(str, known.tolist()))
            raise ValueError(f"{name} must be one of {shown}, got {text!r}.")
        runs = runs.isel({name: int(near[0])})
    return runs


def _arguments(
    options: argparse.Namespace, runs: "xr.Dataset", axes: Sequence[str]
) -> dict[str, Any]:
    """Returns the arguments that are given."""
    found: dict[str, Any] = {}
    if options.maximize:
        found["maximize"] = True
    for name in ("variable", "initial_loss", "name"):
        if (value := getattr(options, name)) is not None:
            found[name] = value
    if options.over is not None:
        found["over"] = options.over.split(",")
    elif options.question == "scaling":
        raise ValueError("scaling needs --over, such as --over width.")
    if options.baseline is not None:
        values = runs[axes[0]].values.tolist() if axes and axes[0] in runs else []
        by_text = {str(value): value for value in values}
        by_text |= {str(parse_value(text)): v for text, v in by_text.items()}
        found["baseline"] = lookup("--baseline", options.baseline, by_text)
    return found


def _finite(value: Any) -> Any:
    """Returns plain data with null for what is not finite, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
