"""Checks of the arguments that `train` and `sweep` share."""

from collections.abc import Collection

from stabjax._arguments import as_integer, check, check_choice
from stabjax._train.summaries import SUMMARIES
from stabjax._types import Number


def check_lengths(
    steps: int, record_every: int | None, evaluations: int
) -> tuple[int, int | None, int]:
    """Checks the step and evaluation counts and converts them to Python ints."""
    steps = as_integer("steps", steps)
    if record_every is not None:
        record_every = as_integer("record_every", record_every, f"in [1, {steps}]")
    return steps, record_every, as_integer("evaluations", evaluations)


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
