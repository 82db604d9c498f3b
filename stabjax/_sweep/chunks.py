"""Which trials run together: chunks of one width, with one seed where that pays."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._sweep.axes import Axis
from stabjax._sweep.space import Space

_Array = np.ndarray[Any, Any]


class Points(NamedTuple):
    """What every trial of a space is given, as the device will see it."""

    numbers: dict[str, _Array]  # axis -> its values
    rows: dict[str, _Array]  # axis -> for each trial the position of its value
    seeds: _Array  # for each trial

    def at(self, trials: _Array) -> dict[str, _Array]:
        """The numbers of these trials."""
        return {name: v[self.rows[name][trials]] for name, v in self.numbers.items()}


class Group(NamedTuple):
    """What the trials of one program have in common; a store knows it by heart."""

    labels: dict[str, Any]  # static axis -> the label of its value
    width: int  # trials of a chunk
    shared_seed: bool  # within each chunk
    variables: dict[str, jax.ShapeDtypeStruct]  # what a trial gives
    program: str = ""  # the hash of the program of a chunk, where it is needed


class Chunk(NamedTuple):
    """Trials that run together."""

    number: int  # among all chunks of the sweep; in a store also its name
    group: int
    trials: _Array  # not padded


def points(space: Space) -> Points:
    """Gets the numbers and the seeds of a space ready for the device."""
    # Half the memory of NumPy's own indices, which shows from a million trials on.
    rows = {name: found.astype(np.int32) for name, found in space.rows().items()}
    numeric = [a for a in space.axes if not a.is_static and a.name != "seed"]
    numbers = {axis.name: _device_values(axis) for axis in numeric}
    return Points(numbers, rows, seeds_of(space, rows))


def seeds_of(space: Space, rows: Mapping[str, _Array]) -> _Array:
    """The seed of every trial; 0 where there is no such axis."""
    for axis in space.axes:
        if axis.name == "seed":
            return np.asarray(axis.values, np.int32)[rows["seed"]]
    return np.zeros(len(space), np.int32)


def widths(
    trials: _Array, given: Points, chunk_size: int | None, auto: int
) -> tuple[int, bool]:
    """The width of the chunks of these trials, and whether each keeps to one seed.

    Without a size they are even chunks, of `auto` at most. Trials that share a seed
    share its minibatches, which then are drawn only once. So chunks keep to one seed
    where each seed has trials enough to fill one.
    """
    limit = chunk_size or auto
    counts = np.unique(given.seeds[trials], return_counts=True)[1]
    enough = len(counts) == 1 or int(counts.min()) >= limit
    shared_seed = enough and bool(given.numbers)  # something must be batched
    longest = int(counts.max()) if shared_seed else len(trials)
    width = chunk_size or math.ceil(longest / math.ceil(longest / limit))
    return width, shared_seed


def chunked(
    space: Space,
    seeds: _Array,
    sizes: Sequence[tuple[int, ...]],
    groups: Sequence[Group],
) -> list[Chunk]:
    """All chunks of a sweep with these seeds, in the order of their numbers.

    A sweep that was extended has several `sizes`, the numbers of values that its
    dimensions had each time: the trials that came later stand in chunks of their own,
    behind the others, whose numbers and trials so are what they were.
    """
    chunks: list[Chunk] = []
    generations = _generations(space, sizes) if len(sizes) > 1 else None
    for generation in range(len(sizes)):
        for number, (_, new) in enumerate(space.groups()):
            if generations is not None:
                new = new[generations[new] == generation]
            parts = _parts(new, seeds[new], groups[number])
            chunks += [
                Chunk(len(chunks) + i, number, part) for i, part in enumerate(parts)
            ]
    return chunks


def padded(trials: _Array, width: int) -> _Array:
    """A chunk's trials, the last of them repeated until there are `width`."""
    return np.pad(trials, (0, width - len(trials)), mode="edge")


def _generations(space: Space, sizes: Sequence[tuple[int, ...]]) -> _Array:
    """For each trial, which of these sizes is the first that holds it."""
    found = np.zeros(space.shape, np.int32)
    for smaller in sizes[:-1]:
        found += 1
        found[tuple(map(slice, smaller))] -= 1
    return found.ravel()


def _parts(trials: _Array, seeds: _Array, group: Group) -> Iterator[_Array]:
    order = np.argsort(seeds, kind="stable")
    borders = np.flatnonzero(np.diff(seeds[order])) + 1
    for part in np.split(trials[order], borders if group.shared_seed else []):
        for start in range(0, len(part), group.width):
            yield part[start : start + group.width]


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
