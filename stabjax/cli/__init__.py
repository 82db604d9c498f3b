"""The command line: `stabjax study | sweep | plot | ask | schedule | list`."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence

import stabjax
from stabjax._arguments import lookup, suggestion
from stabjax.cli import ask, catalogue, environment, plot, schedule, study, sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the `stabjax` command and returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = _parsers()
    if arguments and not arguments[0].startswith("-"):
        with environment.errors_in_one_sentence(parser):
            lookup("COMMAND", arguments[0], commands)
    # argparse collects positional arguments only up to an option. NAME=VALUE pairs
    # after an option are reported as unknown arguments and added here.
    options, rest = parser.parse_known_args(arguments)
    pairs = getattr(options, "pairs", None)
    for word in rest:
        if pairs is None or word.startswith("-"):
            parser.error(_unexpected(word, commands.get(arguments[0], parser)))
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


def _parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Returns the main parser, and the parsers of the commands, keyed by name."""
    parser = argparse.ArgumentParser(
        prog="stabjax", description="Tools for training stability in JAX."
    )
    version = f"stabjax {stabjax.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (study, sweep, plot, ask, schedule, catalogue):
        command.add(commands)
    return parser, commands.choices


def _unexpected(word: str, parser: argparse.ArgumentParser) -> str:
    if not word.startswith("-"):
        return f"argument {word!r} is unexpected."
    known = [name for name in parser._option_string_actions if name.startswith("--")]
    name = word.partition("=")[0]
    return (
        f"option must be one of {', '.join(known)}, got {name!r}."
        f"{suggestion(name, known)}"
    )
