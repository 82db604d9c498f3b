"""Settings shared by all runs of a sweep."""

from typing import Any, NamedTuple

from stabjax._train.divergence import DIVERGENCE_FACTOR


class Settings(NamedTuple):
    """The arguments of `train` and, if used, of successive halving."""

    steps: int
    record_every: int | None = None
    divergence_factor: float = DIVERGENCE_FACTOR
    summaries: tuple[str, ...] = ()
    target_loss: float | None = None
    evaluations: int = 1
    rungs: tuple[int, ...] = ()  # steps at which halving compares points
    eta: float | None = None
    compared_by: str | None = None
    evaluate_every: int | None = None
    stop: tuple[Any, ...] | None = None  # the fields of an `EarlyStopping`
