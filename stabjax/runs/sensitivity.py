"""Sensitivity of a loss to the learning rate."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from stabjax._arguments import as_scalar, check
from stabjax._intervals import LEAST_SHARE, Estimate, decades, student
from stabjax.runs.answers import Answer, basis, with_caveats
from stabjax.runs.tables import seeds_left_out, table_of


@dataclass(frozen=True, repr=False)
class Sensitivity(Answer):
    """The learning-rate sensitivity, as returned by `sensitivity`.

    Attributes:
      axis: the name of the learning rate.
      variable: the name of the loss.
      sensitivity: the sensitivity S with its confidence interval over the seeds.
      decades: width of the range of learning rates that train, in decades.
      trains: the smallest and the largest learning rate that trains, or NaN.
      initial_loss: the loss before training.
      at: the values of the other axes at the best point.
      seeds: number of seeds.
      confidence: confidence level of the interval.
      rates: the learning rates.
      losses: the mean loss at each rate, with the loss of each seed capped at the
        initial loss.
      caveats: sentences about the limits of the answer.
    """

    axis: str
    variable: str
    sensitivity: Estimate
    decades: float
    trains: tuple[float, float]
    initial_loss: float
    at: Mapping[str, object]
    seeds: int
    confidence: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    caveats: tuple[str, ...]

    def __str__(self) -> str:
        """Returns the answer in a few lines of text."""
        first = f"sensitivity to {self.axis}: {self.sensitivity} "
        first += basis(self.seeds, self.confidence, self.at)
        low, high = self.trains
        second = "no rate trains"
        if self.decades:
            second = f"{self.decades:.2g} decades train, from {low:.3g} to {high:.3g}"
        return with_caveats([first, second], self.caveats)


def sensitivity(
    runs: xr.Dataset,
    axis: str,
    *,
    variable: str = "final_loss",
    initial_loss: float | None = None,
    confidence: float = 0.95,
) -> Sensitivity:
    """Measures how much the loss increases if the learning rate is not optimal.

    The learning-rate sensitivity of Wortsman et al. is the mean over the rates r

        S = E_r[min(l(r), l_0) - l*],   l* = min_r l(r)

    of the final loss l(r), where the loss of a diverged run is capped at the initial
    loss l_0. It depends on the swept range, so compare only sweeps with the same rates,
    evenly spaced on a logarithmic axis (theirs are 3e-4 to 3e-1). With several seeds, l
    is the mean of min(l, l_0) over the seeds.

    A rate trains if at least half of the seeds end below the initial loss.

    Args:
      runs: the dataset of `sweep`, or a part of it.
      axis: the name of the learning rate, or of any axis with positive numbers.
      variable: a loss with one value per run.
      initial_loss: the loss l_0 before training. By default, the first value of `loss`,
        which `sweep` records with `record_every`.
      confidence: confidence level of the interval, in (0, 1).

    Returns:
      A `Sensitivity`. All other axes are fixed at their values at the best point.

    Raises:
      ValueError: If the dataset lacks the axis or the variable, an initial loss is
        neither given nor recorded, or a value of the axis is not positive and finite.

    Example:
      >>> import numpy as np, optax, stabjax
      >>> def make_optimizer(rate):
      ...     return optax.sgd(rate)
      >>> space = stabjax.grid(rate=[0.01, 0.1, 1.0, 10.0], seed=range(4))
      >>> problem = stabjax.problems.quadratic()
      >>> runs = stabjax.sweep(
      ...     problem, make_optimizer, space, steps=20, record_every=20
      ... )
      >>> found = stabjax.runs.sensitivity(runs, "rate")
      >>> round(found.decades, 1)
      2.0

    References:
      Wortsman et al., "Small-scale proxies for large-scale Transformer training
      instabilities", 2023, section 2.2, https://arxiv.org/abs/2309.14322.
    """
    check("confidence", confidence, "in (0, 1)")
    if initial_loss is None:
        initial_loss = _initial_loss(runs)
    initial_loss = float(as_scalar("initial_loss", initial_loss))
    table = table_of(runs, axis, variable, maximize=False)
    rates = table.values
    if not ((rates > 0) & np.isfinite(rates)).all():
        raise ValueError(f"axis must contain positive finite numbers, got {axis!r}.")
    losses = np.minimum(table.scores, initial_loss)
    means = losses.mean(axis=0)
    best = int(means.argmin())
    # All seeds share one best rate. Each seed's own best rate would bias the result.
    excess = losses.mean(axis=1) - losses[:, best]
    trains = (table.scores < initial_loss).mean(axis=0) >= LEAST_SHARE
    ends = rates[trains][[0, -1]].tolist() if trains.any() else [np.nan, np.nan]
    return Sensitivity(
        axis=axis,
        variable=variable,
        sensitivity=student(excess, confidence),
        decades=float(decades(rates)[trains].sum()),
        trains=(ends[0], ends[1]),
        initial_loss=initial_loss,
        at=table.at,
        seeds=len(losses),
        confidence=confidence,
        rates=tuple(rates.tolist()),
        losses=tuple(means.tolist()),
        caveats=(*_caveats(axis, rates, best, trains), *seeds_left_out(table.dropped)),
    )


def _initial_loss(runs: xr.Dataset) -> float:
    """Returns the mean loss of the first step over all runs."""
    if "loss" not in runs:
        raise ValueError(
            "initial_loss must be given, got None: the runs do not record `loss`. Pass "
            "the loss before training, or sweep with record_every."
        )
    return float(runs["loss"].isel(step=0).mean())


def _caveats(
    axis: str, rates: np.ndarray, best: int, trains: np.ndarray
) -> tuple[str, ...]:
    found = []
    if best in (0, len(rates) - 1):
        found.append(
            f"the best {axis}, {rates[best]:.3g}, is at the edge of the grid: the "
            "sensitivity is relative to a loss that may not be the best."
        )
    if trains[0] or trains[-1]:
        found.append("the rates that train reach the edge of the grid.")
    parts = decades(rates)
    if len(rates) > 1 and not np.allclose(parts, parts[0], rtol=0.25):
        found.append("the rates are not even on a logarithmic axis.")
    return tuple(found)
