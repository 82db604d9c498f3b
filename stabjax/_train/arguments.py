"""What is asked of the arguments that trainings and sweeps have in common."""

import operator
from collections.abc import Collection
from typing import Any

import jax
import numpy as np

from stabjax._train.summaries import SUMMARIES


def check_lengths(steps: Any, record_every: Any) -> None:
    """Raises unless these are numbers of steps that a training can have."""
    if not positive_int(steps):
        raise ValueError(f"steps must be a positive integer, got {steps!r}.")
    if record_every is not None and not (
        positive_int(record_every) and record_every <= steps
    ):
        raise ValueError(
            f"record_every must be None or an integer from 1 to steps={steps}, "
            f"got {record_every!r}."
        )


def check_evaluations(evaluations: Any) -> None:
    """Raises unless this is a number of evaluation keys."""
    if not positive_int(evaluations):
        raise ValueError(
            f"evaluations must be a positive integer, got {evaluations!r}."
        )


def positive_int(value: Any) -> bool:
    """Whether this is a whole number above zero, and no boolean."""
    if isinstance(value, (bool, np.bool_)):
        return False
    try:
        return operator.index(value) > 0
    except TypeError:
        return False


def check_divergence_factor(factor: Any) -> None:
    """Raises unless the factor is traced or positive."""
    if isinstance(factor, jax.core.Tracer):
        return
    if isinstance(factor, (str, bool)) or factor is None or not np.all(factor > 0):
        raise ValueError(
            f"divergence_factor must be a positive number (inf for none), "
            f"got {factor!r}."
        )


def check_summaries(names: Any, target_loss: Any) -> None:
    """Raises unless these are names of summaries, and a target or None."""
    if isinstance(names, str) or not isinstance(names, Collection):
        raise TypeError(f"summaries must be a list of names, got {names!r}.")
    for name in names:
        if name not in SUMMARIES:
            raise ValueError(
                f"summaries must be among {', '.join(SUMMARIES)}, got {name!r} "
                f"(target_loss alone adds target_at)."
            )
    if isinstance(target_loss, jax.core.Tracer) or target_loss is None:
        return
    if isinstance(target_loss, (str, bool)) or not np.isfinite(target_loss):
        raise ValueError(f"target_loss must be None or a number, got {target_loss!r}.")
