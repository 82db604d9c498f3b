"""The command `stabjax schedule`, which plots a learning-rate schedule."""

import argparse
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import stabjax
from stabjax._arguments import as_integer, lookup, suggestion
from stabjax._types import Schedule
from stabjax.cli import environment
from stabjax.cli.environment import Subparsers, integer
from stabjax.cli.values import Value, parse_pair, parse_value

if TYPE_CHECKING:
    from stabjax._catalogue import Scheduling

# Parameters whose values are neither numbers nor words.
_NOT_VALUES = {
    "boundaries_and_scales",
    "cosine_kwargs",
    "gradient_norms",
    "schedule",
}
_MOST_STEPS = 2**31 - 1
_MOST_OF_A_BOUND = 10**6  # steps, each with an element of its arrays


class _Named(NamedTuple):
    function: Callable[..., Schedule]
    scheduling: "Scheduling | None" = None


def add(commands: Subparsers) -> None:
    """Adds the command to the argument parser."""
    parser = commands.add_parser(
        "schedule",
        help="plot a schedule in the terminal and save the plot to a file",
        description="Plots a stabjax schedule. Example: stabjax schedule wsd_schedule"
        " peak_value=1 warmup_steps=10 stable_steps=60 decay_steps=30. The command"
        " `stabjax list schedules` shows all arguments and their defaults.",
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
        type=integer,
        metavar="N",
        help="steps to plot (default: the sum of all arguments named *steps, or 100)",
    )
    parser.add_argument(
        "--out",
        default="schedule.png",
        metavar="FILE",
        help="a .png, .svg or .pdf file (default: schedule.png)",
    )


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    with environment.errors_in_one_sentence(parser):
        environment.check_output(options.out, environment.PICTURES)
        named = lookup("schedule", options.name, _schedules())
        pairs = [parse_pair(text, "ARGUMENT=VALUE") for text in options.pairs]
        given = {name: parse_value(value) for name, value in pairs}
        for name in given:
            if sum(name == other for other, _ in pairs) > 1:
                raise ValueError(f"argument {name!r} must be given once.")
        steps = _steps(options.steps, given)
        arguments = _arguments(options.name, named, given, steps)
        schedule = named.function(**arguments)
        text = stabjax.plot.schedule_text(schedule, steps)
        with_bound = steps <= _MOST_OF_A_BOUND
        drawn = {options.name: schedule}
        figure: Any = stabjax.plot.schedules(drawn, steps, bound=with_bound).figure
        figure.savefig(options.out)
    shown = " ".join(f"{name}={value}" for name, value in arguments.items())
    print(f"{options.name} {shown}\n{text}\n")
    if with_bound:
        bound = stabjax.schedule_bound(schedule, steps).best_value * steps**0.5
        print(f"bound at the best rate / (D G / sqrt(T)): {bound:.3g}")
    print(f"picture: {options.out}")


def _steps(option: int | None, given: Mapping[str, Value]) -> int:
    if option is not None:
        steps = as_integer("--steps", option)
    else:
        spans = [
            value
            for name, value in given.items()
            if name.endswith("steps") and type(value) in (int, float)
        ]
        total = sum(float(span) for span in spans if isinstance(span, int | float))
        steps = round(min(max(total, 0), 2.0**40)) or 100
    if steps > _MOST_STEPS:
        raise ValueError(f"--steps must be at most 2**31 - 1, got {steps}.")
    return steps


def _arguments(
    schedule: str, named: _Named, given: Mapping[str, Value], steps: int
) -> dict[str, Any]:
    """Returns the given arguments with defaults for the others."""
    parameters = inspect.signature(named.function).parameters
    found: dict[str, Any] = dict(given)
    known = named.scheduling
    if known and known.peak not in found and "peak_value" in found:
        found[known.peak] = found.pop("peak_value")
    for name in found:
        if name not in parameters:
            raise ValueError(
                f"argument must be one of {schedule}'s ({', '.join(parameters)}), got "
                f"{name!r}.{suggestion(name, parameters)}"
            )
    if known:
        found = known.arguments(steps, {known.peak: 1.0, **found})
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name not in found
    ]
    if missing:
        raise ValueError(
            f"{schedule} must be given {' and '.join(missing)}, such as {missing[0]}=1."
        )
    return found


def _schedules() -> dict[str, _Named]:
    """Returns the schedules that take only numbers and words, keyed by name."""
    from stabjax._catalogue import ALL_SCHEDULES

    names = [n for n in dir(stabjax) if n.endswith(("_schedule", "_decay"))]
    builders = {name: getattr(stabjax, name) for name in names}
    found = {
        name: _Named(build)
        for name, build in builders.items()
        if not _NOT_VALUES & set(inspect.signature(build).parameters)
    }
    catalogue = {name: _Named(one.function, one) for name, one in ALL_SCHEDULES.items()}
    return {**found, **catalogue}
