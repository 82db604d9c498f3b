"""Which trials run together: chunks of one width, with one seed where that pays."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from stabjax._sweep.space import Axis, Space

_Array = np.ndarray[Any, Any]


class Points(NamedTuple):
    """What every trial of a space is given, as the device will see it."""

    numbers: dict[str, _Array]  # axis -> its values
    rows: dict[str, _Array]  # axis -> for each trial the position of its value
    seeds: _Array  # for each trial

    def at(self, trials: _Array) -> dict[str, _Array]:
        """The numbers of these trials."""
        return {name: v[self.rows[name][trials]] for name, v in self.numbers.items()}


class Chunks(NamedTuple):
    """The trials of one program, in the order and the company they run in."""

    width: int
    shared_seed: bool  # within each chunk
    trials: list[_Array]  # the trials of each chunk, not padded


def points(space: Space) -> Points:
    """Gets the numbers and the seeds of a space ready for the device."""
    rows = space.rows()
    numbers = {a.name: _device_values(a) for a in space.axes if not a.is_static}
    values = numbers.pop("seed", np.zeros(1, np.int32))
    position = rows.get("seed", np.zeros(len(space), np.int32))
    return Points(numbers, rows, values.astype(np.int32)[position])


def in_chunks(
    trials: _Array, given: Points, chunk_size: int | None, auto: int
) -> Chunks:
    """Splits the trials of a program; without a size into even chunks, `auto` at most.

    Trials that share a seed share its minibatches, which then are drawn only once. So
    chunks keep to one seed where each seed has trials enough to fill one.
    """
    limit = chunk_size or auto
    seeds = given.seeds[trials]
    order = np.argsort(seeds, kind="stable")
    borders = np.flatnonzero(np.diff(seeds[order])) + 1
    parts = np.split(trials[order], borders)
    enough = len(parts) == 1 or min(map(len, parts)) >= limit
    shared_seed = enough and bool(given.numbers)  # something must be batched
    if not shared_seed:
        parts = [trials[order]]
    longest = max(map(len, parts))
    width = chunk_size or math.ceil(longest / math.ceil(longest / limit))
    chunks = [p[i : i + width] for p in parts for i in range(0, len(p), width)]
    return Chunks(width, shared_seed, chunks)


def padded(trials: _Array, width: int) -> _Array:
    """A chunk's trials, the last of them repeated until there are `width`."""
    return np.pad(trials, (0, width - len(trials)), mode="edge")


def _device_values(axis: Axis) -> _Array:
    values = np.asarray(axis.values)
    dtype = jnp.result_type(int if values.dtype.kind in "iu" else float)
    limits = np.iinfo(dtype) if dtype.kind == "i" else np.finfo(dtype)
    finite = values[np.isfinite(values)]
    if finite.size and (finite.min() < limits.min or finite.max() > limits.max):
        raise ValueError(
            f"axis {axis.name!r} holds values beyond {dtype}: write it as floats, or "
            f"switch jax_enable_x64 on."
        )
    return values.astype(dtype)
