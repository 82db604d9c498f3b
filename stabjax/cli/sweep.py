"""The command `stabjax sweep`, which trains a problem at every point of a grid."""

import argparse
import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import optax

import stabjax
from stabjax._arguments import check_choice, lookup
from stabjax._types import Number, Schedule
from stabjax.cli import environment
from stabjax.cli.environment import Subparsers
from stabjax.cli.values import parse_space

if TYPE_CHECKING:
    import xarray as xr

# Common names of the learning rate and the threshold, for suggestions.
_SYNONYMS = {
    "clip": "max_norm",
    "clip_norm": "max_norm",
    "learning_rate": "peak_value",
    "lr": "peak_value",
    "max_grad_norm": "max_norm",
    "rate": "peak_value",
    "threshold": "max_norm",
}


def add(commands: Subparsers) -> None:
    """Adds the command to the argument parser."""
    parser = commands.add_parser(
        "sweep",
        help="train a problem at every point of a grid",
        description="Trains a problem at every point of a grid. Example: stabjax sweep"
        " digits_mlp max_norm=log:1e-2:1e2:8 peak_value=log:1e-3:1e1:8"
        " schedule=cosine,linear,constant seed=0:4. Axes are passed by name to the"
        " problem, the clipping (max_norm), the schedule (peak_value, warmup_steps,"
        " schedule) and the optimizer. Write values as log:LOW:HIGH:N, lin:LOW:HIGH:N,"
        " FIRST:END (END is excluded), or a comma-separated list of numbers, words,"
        " true, false and none. Add the prefix static: to values that fix a shape.",
    )
    parser.set_defaults(call=_run)
    parser.add_argument("problem", metavar="PROBLEM", help="such as digits_mlp")
    parser.add_argument(
        "pairs", nargs="+", metavar="NAME=VALUES", help="such as seed=0:8"
    )
    parser.add_argument("--steps", type=int, default=200, help="default: 200")
    parser.add_argument(
        "--optimizer", default="sgd", metavar="NAME", help="from Optax (default: sgd)"
    )
    parser.add_argument(
        "--record-every", type=int, metavar="N", help="record metrics every N steps"
    )
    parser.add_argument(
        "--target-loss", type=float, metavar="LOSS", help="record steps to this loss"
    )
    parser.add_argument(
        "--store", metavar="DIR", help="save finished chunks here and resume from them"
    )
    parser.add_argument("--out", metavar="FILE", help="save the dataset as netCDF")
    parser.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="number of CPU devices (default: one per core)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="estimate time and memory only"
    )


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    with environment.errors_in_one_sentence(parser):
        environment.check_output(options.out)
        environment.prepare_jax(options.devices)
        from stabjax._catalogue import PROBLEMS  # needs packages of an extra

        space = parse_space(options.pairs)
        problem = lookup("problem", options.problem, PROBLEMS)
        record = options.record_every is not None
        make = optimizer_named(options.optimizer, options.steps, record=record)
        names = [text.partition("=")[0] for text in options.pairs]
        _check_axes(names, problem, make)
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
        if options.out and not options.dry_run:
            runs.to_netcdf(options.out, engine="scipy")
    print(_estimate(runs.attrs) if options.dry_run else _summary(runs))


def _check_axes(names: Iterable[str], *factories: Callable[..., object]) -> None:
    known = {"seed": None}
    for factory in factories:
        known |= dict.fromkeys(inspect.signature(factory).parameters)
    for name in names:
        if name not in known and (synonym := _SYNONYMS.get(name)) in known:
            raise ValueError(f"axis {name!r} is unknown. Use {synonym}.")
        lookup("axis", name, known)


def optimizer_named(
    name: str, steps: int, *, record: bool
) -> Callable[..., optax.GradientTransformation]:
    """Returns a `make_optimizer` function with clipping and a schedule.

    The function takes `max_norm`, `peak_value`, `schedule` (constant, linear or
    cosine), `warmup_steps` and the parameters of the named Optax optimizer.
    """
    from stabjax._catalogue import optimizers

    make = lookup("optimizer", name, optimizers())

    def make_optimizer(
        peak_value: Number,
        max_norm: Number = np.inf,
        schedule: str = "constant",
        warmup_steps: Number = 0,
        **others: Any,
    ) -> optax.GradientTransformation:
        clip = stabjax.clip_by_global_norm(max_norm)
        rate = _schedule(schedule, peak_value, warmup_steps, steps)
        return optax.chain(
            stabjax.with_metrics(clip, name="clip") if record else clip,
            make(learning_rate=rate, **others),
        )

    own = [*inspect.signature(make_optimizer).parameters.values()][:-1]
    optional = [
        parameter.replace(kind=parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(make).parameters.values()
        if parameter.name != "learning_rate"
        and parameter.default is not parameter.empty
    ]
    made: Any = make_optimizer
    made.__signature__ = inspect.Signature([*own, *optional])
    made.__name__ = name
    return make_optimizer


def _schedule(name: str, peak: Number, warmup: Number, steps: int) -> Schedule:
    decays: dict[str, Callable[[], Schedule]] = {
        "constant": lambda: stabjax.constant_schedule(peak),
        "linear": lambda: stabjax.linear_schedule(peak, 0.0, steps - warmup),
        "cosine": lambda: stabjax.cosine_decay_schedule(peak, steps - warmup),
    }
    check_choice("schedule", name, list(decays))
    rise = stabjax.linear_schedule(0.0, peak, warmup)
    schedule: Schedule = stabjax.join_schedules([rise, decays[name]()], [warmup])
    return schedule


def _estimate(attrs: dict[str, Any]) -> str:
    return (
        f"{attrs['trials']} runs of {attrs['steps']} steps, {attrs['programs']} "
        f"programs\nestimated time: {attrs['expected_seconds']} s for training and "
        f"{attrs['expected_compile_seconds']} s for compilation\nestimated memory: "
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
    try:
        best = stabjax.runs.best(runs)
    except ValueError as error:  # every run diverged
        return "\n".join([*lines, str(error)])
    values = " ".join(f"{name}={_short(value)}" for name, value in best.items())
    return "\n".join([*lines, f"best mean final loss over the seeds: {values}"])


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
