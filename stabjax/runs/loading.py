"""The runs in a store, at any moment."""

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
    """Opens what a sweep or a search by halving has stored so far, at any moment.

    Nothing is trained, and none of the functions that the sweep was called with is
    needed. Trials that have not run have the status -1, and NaN for their losses.

    Args:
      store: the folder that `sweep` or `successive_halving` was given as its `store`.

    Returns:
      The dataset as `sweep` or `successive_halving` describes it, with what is stored.

    Raises:
      FileNotFoundError: there is no store of that name.
      ValueError: the store is damaged, or written by a newer version.

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
        raise FileNotFoundError(f"there is no store at {folder!r}: no spec.json.")

    def stored(
        chunks: Sequence[Chunk], inputs: Callable[[Chunk], Inputs]
    ) -> Iterator[tuple[Chunk, dict[str, np.ndarray[Any, Any]]]]:
        del inputs  # nothing is trained
        yield from opened.chunks(plan, chunks)

    return labelled(plan, gathered(plan, stored), {})
