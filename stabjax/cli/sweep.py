"""The command `stabjax sweep`, which trains a problem at every point of a grid."""

import argparse
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optax

import stabjax
from stabjax._arguments import as_integer, suggestion
from stabjax.cli import environment
from stabjax.cli.environment import Subparsers, integer, number
from stabjax.cli.files import found_in_file, is_in_file, problem_at
from stabjax.cli.methods import (
    Parts,
    make_optimizer_from,
    parts_of,
    thresholds_of,
)
from stabjax.cli.values import check_words, parse_axes, space_of

if TYPE_CHECKING:
    import xarray as xr

# Common names of the learning rate and the threshold, for suggestions.
_RATES = ("learning_rate", "lr", "rate", "peak", "init_value", "value")
_THRESHOLDS = ("clip_norm", "max_grad_norm", "threshold", "gradient_clip")


def add(commands: Subparsers) -> None:
    """Adds the command to the argument parser."""
    parser = commands.add_parser(
        "sweep",
        help="train a problem at every point of a grid",
        description="Trains a problem at every point of a grid. Example: stabjax sweep"
        " digits_mlp max_norm=log:1e-2:1e2:8 peak_value=log:1e-3:1e1:8"
        " schedule=cosine,linear,constant seed=0:4. Axes are passed by name to the"
        " problem, the clipping, the schedule (peak_value is its peak), the optimizer"
        " and the guard. The command `stabjax list` shows the names and arguments of"
        " all of them. Write values as log:LOW:HIGH:N, lin:LOW:HIGH:N, FIRST:END (END"
        " is excluded), or a comma-separated list of numbers, words, true, false and"
        " none.",
    )
    parser.set_defaults(call=_run)
    parser.add_argument(
        "problem",
        metavar="PROBLEM",
        help="such as digits_mlp, or path/to/file.py:name for a problem of your own or"
        " a function that returns one",
    )
    parser.add_argument(
        "pairs", nargs="+", metavar="NAME=VALUES", help="such as seed=0:8"
    )
    parser.add_argument("--steps", type=integer, default=200, help="default: 200")
    for name, default in {
        "clip": "clip_by_global_norm",
        "schedule": "constant",
        "optimizer": "sgd, of Optax",
        "guard": "none",
    }.items():
        parser.add_argument(f"--{name}", metavar="NAME", help=f"default: {default}")
    parser.add_argument(
        "--make-optimizer",
        metavar="FILE.py:NAME",
        help="a function in a file, in place of --clip, --schedule and --optimizer",
    )
    _add_results(parser)


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--record-every", type=integer, metavar="N", help="record metrics every N steps"
    )
    parser.add_argument(
        "--target-loss",
        type=number,
        metavar="LOSS",
        help="record steps to this loss",
    )
    parser.add_argument(
        "--fresh-seeds",
        type=integer,
        metavar="N",
        help="train the best point again with N fresh seeds",
    )
    parser.add_argument(
        "--store", metavar="DIR", help="save finished chunks here and resume from them"
    )
    parser.add_argument("--out", metavar="FILE", help="save the dataset as netCDF")
    parser.add_argument(
        "--devices",
        type=integer,
        metavar="N",
        help="number of CPU devices (default: one per core)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="estimate time and memory only"
    )


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    with environment.errors_in_one_sentence(parser):
        _check_options(options)
        environment.prepare_jax(options.devices)
        from stabjax._catalogue import PROBLEMS  # needs packages of an extra

        problem = problem_at(options.problem, PROBLEMS)
        given = parse_axes(options.pairs)
        parts: Parts = {}
        if options.make_optimizer:
            make = found_in_file("--make-optimizer", options.make_optimizer)
        else:
            parts = parts_of(vars(options), given)
            record = options.record_every is not None
            make = make_optimizer_from(parts, options.steps, record=record)
        known = _known(problem, make)
        _check_axes(given, known, parts, options.problem)
        thresholds = ["max_norm", *thresholds_of(parts)]
        check_words(given, known, thresholds)
        space = space_of(given, known, thresholds)
        _check_values(space, options.steps)
        environment.log(repr(space))
        runs = stabjax.sweep(
            problem,
            make,
            space,
            steps=options.steps,
            record_every=options.record_every,
            target_loss=options.target_loss,
            store=options.store,
            dry_run=options.dry_run,
        )
        if options.dry_run:
            print(_estimate(runs.attrs))
            return
        if options.out:
            runs.to_netcdf(options.out, engine="scipy")
        print(_summary(runs))
        if options.fresh_seeds is not None:
            print(_fresh(problem, make, runs, options.fresh_seeds))


def _check_options(options: argparse.Namespace) -> None:
    environment.check_output(options.out)
    as_integer("--steps", options.steps)
    if options.make_optimizer and not is_in_file(options.make_optimizer):
        raise ValueError(
            f"--make-optimizer must be a file and a name, such as "
            f"optimizers.py:make_optimizer, got {options.make_optimizer!r}."
        )
    if options.record_every is not None:
        as_integer("--record-every", options.record_every, f"in [1, {options.steps}]")
    for name in ("devices", "fresh_seeds"):
        if (number := getattr(options, name)) is not None:
            as_integer(f"--{name.replace('_', '-')}", number)
    if options.store is not None and Path(options.store).is_file():
        raise ValueError(f"--store must be a folder, got the file {options.store!r}.")


def _known(*factories: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Returns the parameters of the problem and the optimizer."""
    found = {"seed": inspect.Parameter("seed", inspect.Parameter.KEYWORD_ONLY)}
    for factory in factories:
        found |= inspect.signature(factory).parameters
    return found


def _check_axes(
    given: Mapping[str, object],
    known: Mapping[str, inspect.Parameter],
    parts: Parts,
    problem: str,
) -> None:
    synonyms = dict.fromkeys(_RATES, "peak_value")
    synonyms |= dict.fromkeys(_THRESHOLDS, next(iter(thresholds_of(parts)), ""))
    for name in given:
        if name in known:
            continue
        if (right := synonyms.get(name)) in known:
            raise ValueError(f"axis {name!r} is unknown. Use {right}.")
        names = [problem, *(n for named in parts.values() for n in named)]
        raise ValueError(
            f"axis must be an argument of {', '.join(n for n in names if n != 'none')} "
            f"({', '.join(known)}), got {name!r}.{suggestion(name, known)}"
        )
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in ("seed", *given):
            raise ValueError(
                f"axis {name!r} must be given, such as {name}=0.1 or "
                f"{name}=log:0.01:1:5."
            )


def _check_values(space: "stabjax.Space", steps: int) -> None:
    for axis in space.axes:
        if axis.is_static:
            continue
        values = np.asarray(axis.values)
        if axis.name in ("peak_value", "max_norm") and values.min() < 0:
            raise ValueError(f"axis {axis.name!r} must be >= 0, got {values.min():g}.")
        if axis.name == "warmup_steps" and values.max() > steps:
            raise ValueError(
                f"axis 'warmup_steps' must be at most the steps of a run ({steps}), "
                f"got {values.max():g}. Use --steps for longer runs."
            )


def _estimate(attrs: dict[str, Any]) -> str:
    return (
        f"{attrs['trials']} runs of {attrs['steps']} steps, {attrs['programs']} "
        f"programs\nestimated time: {attrs['expected_seconds']} s for training and "
        f"{attrs['expected_compile_seconds']} s for compilation "
        f"({attrs['expected_loop_seconds']} s for a Python loop)\nestimated memory: "
        f"{attrs['expected_device_bytes'] / 1e6:.0f} MB on the devices and "
        f"{attrs['expected_result_bytes'] / 1e6:.0f} MB for the results"
    )


def _summary(runs: "xr.Dataset") -> str:
    attrs = runs.attrs
    lines = [
        f"{attrs['trials']} runs of {attrs['steps']} steps in "
        f"{attrs['seconds']} s (plus {attrs['compile_seconds']} s to compile)",
        f"diverged: {float((runs.status == 1).mean()):.1%}",
    ]
    # The loss, and the entries of `evaluate` that the problem maximizes.
    maximized = [
        str(name)
        for name, values in runs.data_vars.items()
        if values.attrs.get("better") == "higher" and values.dims == runs.status.dims
    ]
    for variable in ["final_loss", *maximized]:
        try:
            lines.append(f"best {stabjax.runs.best(runs, variable)}")
        except ValueError as error:  # every run diverged
            lines.append(str(error))
            break
    return "\n".join(lines)


def _fresh(
    problem: Callable[..., "stabjax.problems.Problem"],
    make: Callable[..., optax.GradientTransformation],
    runs: "xr.Dataset",
    seeds: int,
) -> str:
    try:
        winner = runs.isel(stabjax.runs.best(runs).positions)
    except ValueError:  # every run diverged, which the summary reports
        return "no point to train with fresh seeds"
    found = stabjax.runs.best(stabjax.runs.retest(problem, make, winner, seeds=seeds))
    return f"with fresh seeds: {str(found).splitlines()[0]}"
