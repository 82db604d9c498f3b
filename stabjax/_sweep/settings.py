"""The settings that all runs of a sweep share."""

from typing import NamedTuple

from stabjax._train.divergence import DIVERGENCE_FACTOR


class Settings(NamedTuple):
    """The arguments of `train`, and those of successive halving if it is used."""

    steps: int
    record_every: int | None = None
    divergence_factor: float = DIVERGENCE_FACTOR
    summaries: tuple[str, ...] = ()
    target_loss: float | None = None
    evaluations: int = 1
    rungs: tuple[int, ...] = ()  # the steps at which halving compares the points
    eta: float | None = None
    compared_by: str | None = None
