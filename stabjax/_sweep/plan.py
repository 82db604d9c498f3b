"""The plan of a sweep, which assigns trials to programs and chunks."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from stabjax._sweep.archive import bytes_of_a_trial
from stabjax._sweep.free_memory import check_fits
from stabjax._sweep.program import STATE, Inputs
from stabjax._sweep.settings import Settings
from stabjax._sweep.space import TRIAL, Space
from stabjax._train.stopping import is_maximized

_PER_TRIAL = 40  # bytes: number, seed, and positions in chunks and groups
_PER_DIMENSION = 12  # bytes per trial: position of its value, and a temporary copy
# On CPU, chunks of 8 networks with one seed take 0.86 of the time of 32 networks with
# several seeds. On an H200, 256 convolutional networks take 0.9 of the time of 1024.
_NARROWER = 4
_RECORDED = 4  # multiple of these bytes above which most results are curves

_Array = np.ndarray[Any, Any]


class Group(NamedTuple):
    """The trials that share a program. Saved in `spec.json`."""

    labels: dict[str, Any]  # static axis -> label of its value
    width: int  # trials per chunk
    shared_seed: bool  # whether all trials of a chunk have the same seed
    variables: dict[str, jax.ShapeDtypeStruct]  # results of a trial
    program: str = ""  # fingerprint of the compiled chunk, if there is a store
    engine: str = "vmap"  # or "lanes"
    accepted: tuple[str, ...] = ()  # fingerprints with other versions of the libraries

    @property
    def chunk(self) -> tuple[int, bool, str]:
        """The arguments with which `Program` compiles a chunk."""
        return self.width, self.shared_seed, self.engine


class Chunk(NamedTuple):
    """A batch of trials that run together."""

    number: int  # index among all chunks, and the name of its file
    group: int
    trials: _Array  # without padding
    steps: int  # total number of updates after this chunk


@dataclass(frozen=True, eq=False)
class Plan:
    """The plan of a sweep, which is saved in `spec.json`.

    The values of the space are in the order of the store, where values that were added
    by a later call come last.
    """

    space: Space
    sizes: tuple[tuple[int, ...], ...]  # shape after each extension of the store
    order: dict[str, _Array]  # dimension -> positions of the values in the user's order
    settings: Settings
    groups: tuple[Group, ...]
    numerics: dict[str, Any]  # versions and flags that affect rounding
    about: dict[str, Any]  # not compared, informative only

    @cached_property
    def numbers(self) -> dict[str, _Array]:
        """The values of each traced axis, in the dtype used on the device."""
        return self.space.numbers()

    @property
    def host_bytes(self) -> int:
        """The bytes of memory that trials and results need in this process."""
        return host_bytes(self.space, (group.variables for group in self.groups))

    def maximizes(self, variable: str) -> bool | None:
        """Returns whether larger values are better, or None if unknown."""
        declared = str(self.about.get("maximize", "")).split(", ")
        return is_maximized(variable, declared)

    def inputs(self, chunk: Chunk) -> Inputs:
        """Returns the program arguments for a chunk."""
        group = self.groups[chunk.group]
        mine, rows = places(chunk.trials), self.space.rows
        lanes = {
            name: padded(values.take(rows[name][mine]), group.width)
            for name, values in self.numbers.items()
        }
        seeds = self.space.seeds[mine]
        if group.shared_seed:
            return {"seed": seeds[0]}, lanes
        return {}, {**lanes, "seed": padded(seeds, group.width)}

    def chunks(self) -> list[Chunk]:
        """Returns all chunks of a sweep, sorted by number.

        Each extension of a store adds new chunks at the end. The existing chunks keep
        their numbers and trials.
        """
        return self._chunks

    @cached_property
    def _chunks(self) -> list[Chunk]:
        found: list[Chunk] = []
        for generation in range(len(self.sizes)):
            new = self._generations == generation if len(self.sizes) > 1 else None
            found += self.chunks_of(new, len(found), self.settings.steps)
        return found

    def chunks_of(self, chosen: _Array | None, number: int, steps: int) -> list[Chunk]:
        """Splits all trials, or those selected by a mask, into numbered chunks."""
        chunks: list[Chunk] = []
        for group, (_, trials) in enumerate(self.space.groups()):
            mine = trials if chosen is None else trials[chosen[trials]]
            for part in _parts(mine, self.space.seeds, self.groups[group]):
                chunks.append(Chunk(number + len(chunks), group, part, steps))
        return chunks

    @cached_property
    def _generations(self) -> _Array:
        """The index of the extension that added each trial."""
        found = np.zeros(self.space.shape, np.int32)
        for smaller in self.sizes[:-1]:
            found += 1
            found[tuple(map(slice, smaller))] -= 1
        return found.ravel()


def host_bytes(
    space: Space, programs: Iterable[Mapping[str, jax.ShapeDtypeStruct]]
) -> int:
    """Returns the bytes of memory that trials and results need in this process.

    Args:
      space: the space of the trials.
      programs: for each program, the results of a trial.
    """
    known: dict[str, int] = {}
    for variables in programs:
        for name, like in variables.items():
            size = 0 if name.startswith(STATE) else bytes_of_a_trial({name: like})
            known[name] = max(size, known.get(name, 0))
    each = _PER_TRIAL + _PER_DIMENSION * len(space.shape) + sum(known.values())
    return len(space) * each


def check_trials_fit(
    space: Space, programs: Sequence[Mapping[str, jax.ShapeDtypeStruct]] = ()
) -> None:
    """Raises a ValueError if trials and their results exceed the free memory."""
    longest = max(space.dimensions, key=len)
    what = "trials" if longest.name == TRIAL else f"values of {longest.name!r}"
    hint = f"take fewer than {len(longest):,} {what}"
    bare = host_bytes(space, ())
    if programs and host_bytes(space, programs) > _RECORDED * bare:
        hint = f"record less often (record_every), or {hint}"
    results = "The results of " if programs else ""
    check_fits(f"{results}{len(space):,} trials", host_bytes(space, programs), hint)


def widths(
    space: Space, trials: _Array, chunk_size: int | None, auto: int
) -> tuple[int, bool]:
    """Returns the chunk width and whether all trials of a chunk share a seed.

    If `chunk_size` is None, the trials are split evenly into chunks of at most `auto`
    trials. A chunk with a single seed draws each minibatch only once. Therefore, chunks
    do not mix seeds if every seed has enough trials to fill a chunk, or a quarter of
    `auto`.
    """
    limit = chunk_size or auto
    counts = np.unique(space.seeds[trials], return_counts=True)[1]
    if not chunk_size and auto <= _NARROWER * counts.min():
        limit = min(auto, int(counts.min()))
    enough = len(counts) == 1 or int(counts.min()) >= limit
    numbers = any(not a.is_static and a.name != "seed" for a in space.axes)
    shared_seed = enough and numbers  # vmap needs a batched argument
    longest = int(counts.max()) if shared_seed else len(trials)
    width = chunk_size or math.ceil(longest / math.ceil(longest / limit))
    return width, shared_seed


def padded(values: _Array, width: int) -> _Array:
    """Pads the values of a chunk to `width` by repeating the last one."""
    missing = width - len(values)
    return np.pad(values, (0, missing), mode="edge") if missing else values


def places(trials: _Array) -> _Array | slice:
    """Returns the trials as a slice if they are consecutive.

    NumPy copies a slice of a million values in 0.4 ms, and the same values by index in
    1.7 ms.
    """
    first, last = int(trials[0]), int(trials[-1])
    if last - first + 1 == len(trials) and (trials[1:] > trials[:-1]).all():
        return slice(first, last + 1)
    return trials


def trials_of(chunks: Sequence[Chunk]) -> int:
    """Returns the total number of trials in the chunks."""
    return sum(len(chunk.trials) for chunk in chunks)


def _parts(trials: _Array, seeds: _Array, group: Group) -> Iterator[_Array]:
    parts = [trials]
    if group.shared_seed or group.engine == "vmap":
        seeds = seeds[trials]
        order = np.argsort(seeds, kind="stable")
        borders = np.flatnonzero(np.diff(seeds[order])) + 1
        parts = np.split(trials[order], borders if group.shared_seed else [])
    for part in parts:
        for start in range(0, len(part), group.width):
            yield part[start : start + group.width]
