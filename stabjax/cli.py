"""The command line: parses, calls, prints."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import stabjax


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
    return parser


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
