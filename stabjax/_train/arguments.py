"""Checks of the arguments that `train` and `sweep` share."""

from collections.abc import Collection
from typing import Any

from stabjax._arguments import as_integer, check, check_choice
from stabjax._train.loops import Lengths
from stabjax._train.summaries import SUMMARIES
from stabjax._types import Number


def steps_of(problem: Any, steps: int | None, epochs: int | None) -> int:
    """Returns the number of updates, from a number of steps or of epochs."""
    if (steps is None) == (epochs is None):
        raise TypeError(
            f"steps or epochs must be given, and not both, got steps={steps} and "
            f"epochs={epochs}."
        )
    if epochs is None:
        return as_integer("steps", steps)
    return as_integer("epochs", epochs) * steps_per_epoch(problem)


def steps_per_epoch(problem: Any) -> int:
    """Returns the number of updates in an epoch of the data."""
    found = getattr(problem, "metadata", {}).get("steps_per_epoch")
    if found is None:
        raise ValueError(
            "problem must have metadata['steps_per_epoch'] to be trained or evaluated "
            "by epochs, got a problem without it. Use a number of steps."
        )
    return as_integer("metadata['steps_per_epoch']", found)


def check_lengths(
    steps: int,
    record_every: int | None,
    evaluate_every: int | None,
    evaluations: int,
) -> tuple[Lengths, int]:
    """Checks the step and evaluation counts and converts them to Python ints."""
    steps = as_integer("steps", steps)
    if record_every is not None:
        record_every = as_integer("record_every", record_every, f"in [1, {steps}]")
    if evaluate_every is not None:
        allowed = f"in [1, {steps}]"
        evaluate_every = as_integer("evaluate_every", evaluate_every, allowed)
        if evaluate_every % (record_every or 1):
            raise ValueError(
                f"evaluate_every must be a multiple of record_every, got "
                f"{evaluate_every} and {record_every}."
            )
    lengths = Lengths(steps, record_every, evaluate_every)
    return lengths, as_integer("evaluations", evaluations)


def check_rules(
    divergence_factor: Number, summaries: Collection[str], target_loss: Number | None
) -> None:
    """Raises an error if a rule for divergence or a summary is invalid."""
    check("divergence_factor", divergence_factor, "> 0")
    if isinstance(summaries, str) or not isinstance(summaries, Collection):
        raise TypeError(f"summaries must be a list of names, got {summaries!r}.")
    for name in summaries:
        check_choice("summaries", name, SUMMARIES)
    if target_loss is not None:
        check("target_loss", target_loss, "in (-inf, inf)")
