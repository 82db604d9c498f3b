"""The command line: parses, calls, prints."""

import argparse
import contextlib
import inspect
import itertools
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

import stabjax

# Parameters that no word on a command line can be.
_NO_NUMBERS = {
    "boundaries_and_scales",
    "cosine_kwargs",
    "gradient_norms",
    "schedule",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `stabjax`; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options = parser.parse_args(arguments)
    if "call" not in options:
        parser.print_help()
        return 0
    options.call(options, parser, shlex.join(["stabjax", *arguments]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stabjax", description="Training stability for JAX, measured."
    )
    version = f"stabjax {stabjax.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_study(commands)
    _add_sweep(commands)
    _add_plot(commands)
    _add_schedule(commands)
    return parser


def _add_study(commands: Any) -> None:
    study = commands.add_parser(
        "study",
        help="measure clipping and schedules on small problems, and write a report",
        description="Trains small problems with clipping, a schedule, both or neither,"
        " over learning rates, thresholds and seeds; writes report, pictures and data."
        " What was stopped goes on when it is called again.",
    )
    study.set_defaults(call=_study)
    study.add_argument(
        "--problems",
        metavar="NAME,NAME",
        help="which problems, or all (default: seven, in about a minute)",
    )
    ours = "of ours; any other word lists them (default: %(default)s)"
    for what, default, text in (
        ("clipping", "clip_by_global_norm", ours),
        ("schedule", "warmup_cosine_decay_schedule", ours),
        ("optimizer", "", "of Optax (default: the usual one of each problem)"),
    ):
        study.add_argument(f"--{what}", default=default, metavar="NAME,NAME", help=text)
    for numbers in ("threshold", "rate"):
        study.add_argument(
            f"--{numbers}-range",
            type=_range,
            metavar="LOW:HIGH",
            help=f"{numbers}s (default: what suits problem and method)",
        )
    study.add_argument(
        "--quick", action="store_true", help="two problems and fewer runs, in seconds"
    )
    study.add_argument("--out", default="study", metavar="DIR", help="default: study")
    for size, text in {
        "rates": "how many learning rates (default, here and below: by problem)",
        "thresholds": "how many clipping thresholds, beside none",
        "seeds": "how many seeds for each pair of them",
        "steps": "how many steps each training has",
    }.items():
        study.add_argument(f"--{size}", type=int, metavar="N", help=text)


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser(
        "sweep",
        help="train a problem once for every point of a grid",
        description="Trains a problem of stabjax.problems once for every point of a"
        " grid, such as: stabjax sweep digits_mlp max_norm=log:1e-2:1e2:8"
        " peak_value=log:1e-3:1e1:8 schedule=cosine,linear,constant seed=0:4. Axes go"
        " by name to the problem, to the clip (max_norm), to the schedule (peak_value,"
        " warmup_steps, schedule) and to the optimizer. Values: log:LOW:HIGH:N,"
        " lin:LOW:HIGH:N, FIRST:END (without the end) or a list with commas, behind"
        " static: where they fix a shape.",
    )
    sweep.set_defaults(call=_sweep)
    sweep.add_argument("problem", metavar="PROBLEM", help="such as digits_mlp")
    sweep.add_argument(
        "axes", nargs="+", metavar="NAME=VALUES", help="such as seed=0:8"
    )
    sweep.add_argument("--steps", type=int, default=200, help="default: 200")
    sweep.add_argument(
        "--optimizer", default="sgd", metavar="NAME", help="of Optax (default: sgd)"
    )
    sweep.add_argument("--record-every", type=int, metavar="N", help="so many steps")
    sweep.add_argument(
        "--target-loss", type=float, metavar="LOSS", help="count the steps to it"
    )
    sweep.add_argument("--store", metavar="DIR", help="keeps what is done, and resumes")
    sweep.add_argument("--out", metavar="FILE", help="the dataset, as netCDF")
    sweep.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="CPU devices to make (default: one for each core)",
    )
    sweep.add_argument(
        "--dry-run", action="store_true", help="only say what it would take"
    )


def _add_plot(commands: Any) -> None:
    plot = commands.add_parser(
        "plot",
        help="draw what a sweep has found",
        description="Draws a store of a sweep, or its dataset: a map over the first two"
        " axes, the share that holds over a single one, or curves of what is recorded.",
    )
    plot.set_defaults(call=_plot)
    plot.add_argument("store", metavar="STORE", help="a folder, or a netCDF file")
    plot.add_argument("--variable", default="final_loss", help="default: final_loss")
    for name, text in {
        "x": "across (default: the first)",
        "y": "upwards (default: the second)",
        "hue": "a line for each value, among curves and shares",
    }.items():
        plot.add_argument(f"--{name}", metavar="AXIS", help=text)
    plot.add_argument(
        "--out", default="sweep.png", metavar="FILE", help="default: sweep.png"
    )


def _sweep(
    options: argparse.Namespace, parser: argparse.ArgumentParser, command: str
) -> None:
    del command
    try:
        _prepare_jax(options.devices)
        from stabjax import _recipes

        space = _recipes.space_of(options.axes)
        watched = options.record_every is not None
        make = _recipes.optimizer_named(
            options.optimizer, options.steps, watched=watched
        )
        _say(repr(space))
        runs = stabjax.sweep(
            _recipes.problem_named(options.problem),
            make,
            space,
            steps=options.steps,
            record_every=options.record_every,
            target_loss=options.target_loss,
            store=options.store,
            dry_run=options.dry_run,
        )
        if options.out and not options.dry_run:
            runs.to_netcdf(options.out, engine="scipy")
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        parser.error(str(error))
    except KeyboardInterrupt as error:
        parser.exit(130, f"{str(error) or 'stopped'}\n")
    if options.dry_run:
        print(_expected(runs.attrs))
    else:
        print(_found(runs))


def _plot(
    options: argparse.Namespace, parser: argparse.ArgumentParser, command: str
) -> None:
    del command
    try:
        runs = _opened(options.store)
        figure: Any = _drawn(runs, options).figure
        figure.savefig(options.out)
    except (ValueError, KeyError, OSError, ModuleNotFoundError) as error:
        parser.error(str(error))
    print(f"picture: {options.out}")


def _opened(store: str) -> Any:
    if Path(store).is_dir():
        return stabjax.load(store)
    import xarray as xr

    return xr.load_dataset(store, engine="scipy")


def _drawn(runs: Any, options: argparse.Namespace) -> Any:
    if options.variable not in runs:
        known = ", ".join(map(str, runs.data_vars))
        raise ValueError(f"there is no {options.variable!r}, only {known}")
    values = runs[options.variable]
    if "step" in values.dims:
        return stabjax.plot.learning_curves(
            runs, variable=options.variable, hue=options.hue
        )
    axes = [d for d in values.dims if d not in ("seed", "trial") and runs.sizes[d] > 1]
    # Numbers first: the map of a word and a number is a last resort.
    axes.sort(key=lambda name: runs[name].dtype.kind not in "iuf")
    x = options.x or next(iter(axes), None)
    if x is None:
        raise ValueError("there is no axis to draw over: name one with --x")
    y = options.y or next((name for name in axes if name != x), None)
    if y is None or options.variable == "status":
        return stabjax.plot.stable_fraction(runs, x=x, hue=options.hue)
    return stabjax.plot.heatmap(runs, x=x, y=y, variable=options.variable)


def _prepare_jax(devices: int | None) -> None:
    """One CPU device for each core, and a cache of compilations that outlives us."""
    if devices is not None and devices < 1:
        raise ValueError(f"devices must be at least 1, got {devices}")
    with contextlib.suppress(RuntimeError):  # where JAX is in use already
        jax.config.update("jax_num_cpu_devices", devices or os.cpu_count() or 1)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home, "stabjax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _expected(attrs: dict[str, Any]) -> str:
    return (
        f"{attrs['trials']} trainings of {attrs['steps']} steps, {attrs['programs']} "
        f"programs\nexpected: {attrs['expected_seconds']} s and "
        f"{attrs['expected_compile_seconds']} s to compile; "
        f"{attrs['expected_device_bytes'] / 1e6:.0f} MB on the devices, "
        f"{attrs['expected_result_bytes'] / 1e6:.0f} MB of results"
    )


def _found(runs: Any) -> str:
    about = runs.attrs
    diverged = float((runs.status == 1).mean())
    lines = [
        f"{about['trials']} trainings of {about['steps']} steps in "
        f"{about['seconds']} s, and {about['compile_seconds']} s to compile",
        f"diverged: {diverged:.1%}",
    ]
    try:
        best = stabjax.best(runs)
    except ValueError as error:
        return "\n".join([*lines, str(error)])
    shown = " ".join(f"{name}={_short(value)}" for name, value in best.items())
    return "\n".join([*lines, f"best final loss, on average over seeds: {shown}"])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _add_schedule(commands: Any) -> None:
    schedule = commands.add_parser(
        "schedule",
        help="draw a schedule in the terminal, and write it as a picture",
        description="Draws a schedule of this library, such as: stabjax schedule"
        " wsd_schedule peak_value=1 warmup_steps=10 stable_steps=60 decay_steps=30",
    )
    schedule.set_defaults(call=_schedule)
    schedule.add_argument("name", metavar="NAME", help="such as cosine_decay_schedule")
    schedule.add_argument(
        "arguments", nargs="*", metavar="ARGUMENT=VALUE", help="numbers and words"
    )
    schedule.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="how many to draw (default: all arguments that end in steps, or 100)",
    )
    schedule.add_argument(
        "--out", default="schedule.png", metavar="FILE", help="default: schedule.png"
    )


def _schedule(
    options: argparse.Namespace, parser: argparse.ArgumentParser, command: str
) -> None:
    try:
        arguments = dict(map(_argument, options.arguments))
        schedule = _known_schedules()[options.name](**arguments)
        spans = [v for k, v in arguments.items() if k.endswith("steps")]
        steps = options.steps or round(sum(map(float, spans))) or 100
        text = stabjax.plot.schedule_text(schedule, steps)
        figure: Any = stabjax.plot.schedules({options.name: schedule}, steps).figure
        figure.savefig(options.out)
    except KeyError:
        from stabjax import _recipes

        parser.error(
            str(_recipes.unknown("schedule", options.name, _known_schedules()))
        )
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        parser.error(str(error))
    bound = stabjax.schedule_bound(schedule, steps).best_value * steps**0.5
    print(f"{text}\n\nbound at the best rate, by DG / sqrt(T): {bound:.3g}")
    print(f"picture: {options.out}")


def _known_schedules() -> dict[str, Callable[..., Any]]:
    """Schedules of numbers alone, by name."""
    names = [n for n in stabjax.__all__ if n.endswith(("_schedule", "_decay"))]
    builders = {name: getattr(stabjax, name) for name in names}
    return {
        name: build
        for name, build in builders.items()
        if not _NO_NUMBERS & set(inspect.signature(build).parameters)
    }


def _argument(text: str) -> tuple[str, float | str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"an argument must be NAME=VALUE, got {text!r}")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _study(
    options: argparse.Namespace, parser: argparse.ArgumentParser, command: str
) -> None:
    try:
        plans = _plans(options, parser)
        done = stabjax.study.run(plans, folder=options.out, command=command, say=_say)
    except OSError as error:
        parser.error(str(error))
    except KeyboardInterrupt as error:
        stopped = str(error) or "stopped"
        parser.exit(130, f"{stopped}\nthe same command goes on from here\n")
    print(f"\n{done.summary}\n\nMore, with pictures: {done.report}")


def _plans(options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Any]:
    try:
        _prepare_jax(None)
        study = stabjax.study
        sizes = study.Sizes(
            options.rates, options.thresholds, options.seeds, options.steps
        )
        names = options.problems and _words(options.problems)
        return study.plans(names, sizes, _methods(options), quick=options.quick)
    except (ValueError, ModuleNotFoundError) as error:
        parser.error(str(error))


def _methods(options: argparse.Namespace) -> list[Any]:
    """Every combination of the names that are given."""
    names = (
        _words(text) for text in (options.clipping, options.schedule, options.optimizer)
    )
    return [
        stabjax.study.Methods(
            clipping,
            schedule,
            optimizer or None,
            options.threshold_range,
            options.rate_range,
        )
        for clipping, schedule, optimizer in itertools.product(*names)
    ]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(":"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be LOW:HIGH, got {text!r}") from error
    return low, high


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
