"""The command `stabjax schedule`, which plots a learning-rate schedule."""

import argparse
import inspect
from collections.abc import Callable
from typing import Any

import stabjax
from stabjax._arguments import lookup
from stabjax._types import Schedule
from stabjax.cli import environment
from stabjax.cli.environment import Subparsers
from stabjax.cli.values import parse_pair, parse_value

# Parameters whose values are neither numbers nor words.
_NOT_VALUES = {
    "boundaries_and_scales",
    "cosine_kwargs",
    "gradient_norms",
    "schedule",
}


def add(commands: Subparsers) -> None:
    """Adds the command to the argument parser."""
    parser = commands.add_parser(
        "schedule",
        help="plot a schedule in the terminal and save the plot to a file",
        description="Plots a stabjax schedule. Example: stabjax schedule wsd_schedule"
        " peak_value=1 warmup_steps=10 stable_steps=60 decay_steps=30",
    )
    parser.set_defaults(call=_run)
    parser.add_argument("name", metavar="NAME", help="such as cosine_decay_schedule")
    parser.add_argument(
        "pairs",
        nargs="*",
        metavar="ARGUMENT=VALUE",
        help="a number, a word, true, false or none",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="steps to plot (default: the sum of all arguments named *steps, or 100)",
    )
    parser.add_argument(
        "--out", default="schedule.png", metavar="FILE", help="default: schedule.png"
    )


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    with environment.errors_in_one_sentence(parser):
        environment.check_output(options.out)
        pairs = (parse_pair(text, "ARGUMENT=VALUE") for text in options.pairs)
        arguments = {name: parse_value(value) for name, value in pairs}
        schedule = lookup("schedule", options.name, _schedules())(**arguments)
        spans = [
            value
            for name, value in arguments.items()
            if name.endswith("steps") and isinstance(value, int | float)
        ]
        steps = options.steps or round(sum(spans)) or 100
        text = stabjax.plot.schedule_text(schedule, steps)
        figure: Any = stabjax.plot.schedules({options.name: schedule}, steps).figure
        figure.savefig(options.out)
    bound = stabjax.schedule_bound(schedule, steps).best_value * steps**0.5
    print(f"{text}\n\nbound at the best rate / (D G / sqrt(T)): {bound:.3g}")
    print(f"picture: {options.out}")


def _schedules() -> dict[str, Callable[..., Schedule]]:
    """Returns the schedules that take only numbers and words, keyed by name."""
    names = [n for n in stabjax.__all__ if n.endswith(("_schedule", "_decay"))]
    builders = {name: getattr(stabjax, name) for name in names}
    return {
        name: build
        for name, build in builders.items()
        if not _NOT_VALUES & set(inspect.signature(build).parameters)
    }
