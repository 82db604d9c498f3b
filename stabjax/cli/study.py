"""The command `stabjax study`, which compares treatments for unstable training."""

import argparse
import itertools
from typing import TYPE_CHECKING

import stabjax
from stabjax.cli import environment
from stabjax.cli.environment import Subparsers, integer
from stabjax.cli.values import parse_range

if TYPE_CHECKING:
    from stabjax.study import Methods, Plan


def add(commands: Subparsers) -> None:
    """Adds the command to the argument parser."""
    parser = commands.add_parser(
        "study",
        help="compare clipping and schedules on small problems and write a report",
        description="Trains small problems with clipping, with a schedule, with both"
        " and with neither (the baseline) for many learning rates, thresholds and"
        " seeds. Writes a report, plots and data. To resume an interrupted study, run"
        " the same command again.",
    )
    parser.set_defaults(call=_run)
    parser.add_argument(
        "--quick", action="store_true", help="run a small study in a few seconds"
    )
    parser.add_argument("--out", default="study", metavar="DIR", help="default: study")
    _add_methods(parser)
    _add_sizes(parser)


def _add_methods(parser: argparse.ArgumentParser) -> None:
    for name, default, text in (
        (
            "problems",
            "",
            "names from stabjax.problems, or all (default: seven, about a minute)",
        ),
        (
            "clipping",
            "clip_by_global_norm",
            "clipping methods; an unknown name lists them (default: %(default)s)",
        ),
        (
            "schedule",
            "warmup_cosine_decay_schedule",
            "schedules; an unknown name lists them (default: %(default)s)",
        ),
        ("optimizer", "", "Optax optimizers (default: depends on the problem)"),
    ):
        parser.add_argument(
            f"--{name}", default=default, metavar="NAME,NAME", help=text
        )


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    for numbers in ("threshold", "rate"):
        parser.add_argument(
            f"--{numbers}-range",
            type=parse_range,
            metavar="LOW:HIGH",
            help=f"{numbers}s (default: depends on the problem and the method)",
        )
    for size, text in {
        "rates": "number of learning rates (default: depends on the problem)",
        "thresholds": "number of clipping thresholds in addition to no clipping",
        "seeds": "number of seeds for each combination",
        "steps": "number of training steps in each run",
    }.items():
        parser.add_argument(f"--{size}", type=integer, metavar="N", help=text)


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    with environment.errors_in_one_sentence(parser):
        plans = _plans(options)
    # Other errors in `run` are bugs and should show their traceback.
    with environment.errors_in_one_sentence(parser, (OSError,)):
        try:
            done = stabjax.study.run(
                plans,
                folder=options.out,
                command=options.command,
                log=environment.log,
            )
        except KeyboardInterrupt as error:
            hint = "Run the same command again to resume."
            raise KeyboardInterrupt(f"{str(error) or 'stopped'}\n{hint}") from error
    print(f"\n{done.summary}\n\nFull report with plots: {done.report}")


def _plans(options: argparse.Namespace) -> "list[Plan]":
    environment.prepare_jax()
    study = stabjax.study
    sizes = study.Sizes(options.rates, options.thresholds, options.seeds, options.steps)
    names = _split(options.problems) if options.problems else None
    return study.plans(names, sizes, _methods(options), quick=options.quick)


def _methods(options: argparse.Namespace) -> "list[Methods]":
    """Returns all combinations of the given names."""
    names = map(_split, (options.clipping, options.schedule, options.optimizer))
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


def _split(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]
