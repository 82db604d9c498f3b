"""The command line: parses, calls, prints."""

import argparse
import inspect
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
    study = commands.add_parser(
        "study",
        help="measure clipping and schedules on small problems, and write a report",
        description="Trains small problems with clipping, a schedule, both or neither,"
        " over learning rates, thresholds and seeds; writes report, pictures and data.",
    )
    study.set_defaults(call=_study)
    study.add_argument(
        "--problems",
        metavar="NAME,NAME",
        help="which problems (default: all)",
    )
    study.add_argument("--quick", action="store_true", help="less of it, in seconds")
    study.add_argument("--out", default="study", metavar="DIR", help="default: study")
    for size, text in {
        "rates": "learning rates, over four decades",
        "thresholds": "clipping thresholds, over four decades",
        "seeds": "seeds for each pair of them",
        "steps": "steps of each training",
    }.items():
        study.add_argument(f"--{size}", type=int, metavar="N", help=text)
    _add_schedule(commands)
    return parser


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
        known = ", ".join(_known_schedules())
        parser.error(f"unknown schedule {options.name!r}; known are {known}")
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
        study = stabjax.study
        sizes = study.Sizes(
            options.rates, options.thresholds, options.seeds, options.steps
        )
        names = options.problems and options.problems.split(",")
        plans = study.plans(names, sizes, quick=options.quick)
        Path(options.out).mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        parser.error(str(error))
    done = study.run(plans, folder=options.out, command=command, say=_say)
    print(f"\n{done.summary}\n\nMore, with pictures: {done.report}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
