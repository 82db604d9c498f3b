"""Selecting the best hyperparameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from stabjax.runs.points import hyperparameters, is_larger_better, mean_of


class BestPoint(dict[str, object]):
    """The hyperparameters of the best point, as a dict with a note.

    Attributes:
      note: which values are at the edge of a grid, or an empty string.
    """

    def __init__(self, values: Mapping[str, object], note: str = "") -> None:
        """Makes a dict with a note."""
        super().__init__(values)
        self.note = note

    def __str__(self) -> str:
        """Returns the dict and, on a second line, the note."""
        return f"{dict(self)}\n{self.note}" if self.note else f"{dict(self)}"


def best(
    runs: xr.Dataset,
    variable: str = "final_loss",
    *,
    over: str | Sequence[str] = "seed",
    maximize: bool | None = None,
) -> "BestPoint":
    """Returns the hyperparameters with the best mean of a variable over the seeds.

    A point with a diverged run is treated as infinitely bad. Points with missing values
    (NaN) are ignored.

    Args:
      runs: a dataset returned by `sweep` or `successive_halving`, or a subset of it.
      variable: a variable with one value per run, such as a loss, an evaluation or a
        summary.
      over: dimension or dimensions to average over.
      maximize: whether larger values are better. None decides by the problem: entries
        in `metadata["maximize"]` and those that end in `accuracy` are maximized, those
        that end in `loss` or `error` are minimized.

    Returns:
      A dict of keyword arguments for `make_optimizer`, for use as
      `make_optimizer(**best(runs))`. Static values that are not literals, such as
      functions, are represented by their labels. The attribute `note`, which `print`
      shows too, names the axes whose best value is at the edge of a grid.

    Raises:
      ValueError: If the dataset does not have the variable or a dimension, every point
        has a diverged run, or no run is complete; or if `maximize` is None for a
        variable of unknown direction.

    Example:
      >>> import optax, stabjax
      >>> def make_optimizer(rate, decay):
      ...     return optax.sgd(rate, momentum=decay)
      >>> space = stabjax.grid(rate=[0.1, 0.4, 1.5], decay=[0.0, 0.9], seed=range(4))
      >>> problem = stabjax.problems.quadratic()
      >>> runs = stabjax.sweep(problem, make_optimizer, space, steps=20)
      >>> stabjax.runs.best(runs)
      {'rate': 0.4, 'decay': 0.0}
    """
    mean = mean_of(runs, variable, over, is_larger_better(runs, variable, maximize))
    if mean.isnull().all():
        raise ValueError(f"no run is complete because {variable} is NaN everywhere.")
    mean = mean.fillna(np.inf)
    if np.isinf(mean.min()):
        latest = int(runs["diverged_at"].max())
        raise ValueError(
            f"there is no best point because every point has a diverged run (the last "
            f"one diverged at step {latest})."
        )
    found = hyperparameters(runs.isel(mean.argmin(...) if mean.ndim else {}))
    note = _edges(runs, found)
    if (taken := runs.attrs.get("optimizer_takes")) is not None:
        found = {name: found[name] for name in taken.split(", ") if name in found}
    return BestPoint(found, note)


def _edges(runs: xr.Dataset, point: dict[str, Any]) -> str:
    """Names the axes of a grid whose best value is the smallest or the largest."""
    notes = []
    for name, value in point.items():
        values = runs[name].values
        numeric = values.ndim == 1 and values.dtype.kind in "fiu" and len(values) > 1
        # Zero and infinity, such as no clipping, are natural ends of an axis.
        if not numeric or runs[name].dims != (name,) or value in (0, np.inf):
            continue
        for edge, found in (("smallest", values.min()), ("largest", values.max())):
            if value == found:
                notes.append(f"{name}={value:g} is the {edge} value of the grid")
    return f"{' and '.join(notes)}. The best one may lie beyond." if notes else ""
