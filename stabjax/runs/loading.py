"""Loading runs from a store."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr

from stabjax._sweep.dataset import labelled
from stabjax._sweep.gathering import gathered
from stabjax._sweep.plan import Chunk
from stabjax._sweep.program import Inputs
from stabjax._sweep.store import Store


def load(store: str | os.PathLike[str]) -> xr.Dataset:
    """Loads the results of a finished, interrupted or running sweep from its store.

    This function does not train any runs and does not need the functions that were
    passed to the sweep. Missing runs have the status -1 and NaN losses.

    Args:
      store: the `store` folder of a call to `sweep` or `successive_halving`.

    Returns:
      A dataset in the format of `sweep` or `successive_halving`.

    Raises:
      FileNotFoundError: If the store does not exist.
      ValueError: If the store is damaged or was written by a newer version of stabjax.

    Example:
      >>> import optax, stabjax, tempfile
      >>> problem, space = stabjax.problems.quadratic(), stabjax.grid(rate=[0.1, 1.1])
      >>> def make_optimizer(rate):
      ...     return optax.sgd(rate)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = stabjax.sweep(problem, make_optimizer, space, steps=99, store=folder)
      ...     runs = stabjax.runs.load(folder)
      >>> print(runs.status.values)
      [0 1]
    """
    opened = Store(store)
    plan = opened.plan()
    if plan is None:
        folder = str(opened.folder)
        raise FileNotFoundError(f"there is no store at {folder!r} (no spec.json).")

    def stored(
        chunks: Sequence[Chunk], inputs: Callable[[Chunk], Inputs]
    ) -> Iterator[tuple[Chunk, dict[str, np.ndarray[Any, Any]]]]:
        del inputs  # inputs are needed only for training
        yield from opened.chunks(plan, chunks)

    return labelled(plan, gathered(plan, stored), {})
