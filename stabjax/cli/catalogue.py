"""`stabjax list`: names of problems, methods and optimizers."""

import argparse
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stabjax.cli import environment
from stabjax.cli.environment import Subparsers

_STEPS = 100  # for which the defaults of schedules are shown
_KINDS = {
    "problems": "stabjax sweep NAME ..., or --problems of a study",
    "clips": "--clip of a sweep, or --clipping of a study",
    "schedules": f"--schedule, or stabjax schedule NAME; lengths for {_STEPS} steps",
    "optimizers": "--optimizer, of Optax",
    "guards": "--guard of a sweep",
}


def add(commands: Subparsers) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "list",
        help="list problems, clips, schedules, optimizers and guards",
        description="Lists the names accepted by the other commands, with the arguments"
        " that can be the axes of a sweep.",
    )
    parser.set_defaults(call=_run)
    parser.add_argument(
        "kind", nargs="?", metavar="KIND", help=f"{', '.join(_KINDS)} (default: all)"
    )


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from stabjax._arguments import lookup

    with environment.errors_in_one_sentence(parser):
        if options.kind is not None:
            lookup("KIND", options.kind, _KINDS)
        for kind in [options.kind] if options.kind else _KINDS:
            print("\n".join(_lines(kind)))


def _lines(kind: str) -> Iterator[str]:
    yield f"{kind}: {_KINDS[kind]}"
    for name, function in _table(kind).items():
        yield f"  {' '.join([name, *_arguments(kind, function)])}"
        yield f"      {_summary(function)}"


def _table(kind: str) -> Mapping[str, Any]:
    from stabjax import _catalogue

    return {
        "problems": _catalogue.PROBLEMS,
        "clips": _catalogue.CLIPS,
        "schedules": _catalogue.ALL_SCHEDULES,
        "optimizers": _catalogue.optimizers(),
        "guards": _catalogue.GUARDS,
    }[kind]


def _arguments(kind: str, function: Any) -> Iterator[str]:
    from stabjax._catalogue import arguments_of

    defaults: dict[str, Any] = {}
    if kind == "schedules":
        defaults = function.arguments(_STEPS, {function.peak: 1.0})
        yield "peak_value"
        function, peak = function.function, function.peak
        defaults.pop(peak)
    for name, parameter in arguments_of(function).items():
        if kind == "schedules" and name == peak:
            continue
        value = defaults.get(name, parameter.default)
        if value is parameter.empty:
            yield name
        elif value is None or isinstance(value, float):
            yield f"{name}={'none' if value is None else f'{value:g}'}"
        else:
            yield f"{name}={value}"


def _summary(function: Callable[..., object]) -> str:
    """Returns the first sentence of a docstring."""
    changed = getattr(function, "keywords", {})  # of a partial
    plain = getattr(function, "function", getattr(function, "func", function))
    text = (inspect.getdoc(plain) or "").partition("\n\n")[0]
    first = " ".join(text.split())
    fixed = ", ".join(f"{name}={value:g}" for name, value in changed.items())
    return f"{first} Here with {fixed}." if fixed else first
