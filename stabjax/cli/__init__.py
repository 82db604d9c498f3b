"""The command-line interface, `stabjax study | sweep | plot | schedule`."""

import argparse
import shlex
import sys
from collections.abc import Sequence

import stabjax
from stabjax.cli import plot, schedule, study, sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the `stabjax` command and returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    # argparse collects positional arguments only up to an option. NAME=VALUE pairs
    # after an option are reported as unknown arguments and added here.
    options, rest = parser.parse_known_args(arguments)
    pairs = getattr(options, "pairs", None)
    if rest and (pairs is None or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if pairs is not None:
        pairs.extend(rest)
    if "call" not in options:
        parser.print_help()
        return 0
    options.command = shlex.join(["stabjax", *arguments])
    try:
        options.call(options, parser)
    except KeyboardInterrupt as error:
        parser.exit(130, f"{str(error) or 'stopped'}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stabjax", description="Tools for training stability in JAX."
    )
    version = f"stabjax {stabjax.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (study, sweep, plot, schedule):
        command.add(commands)
    return parser
