"""Chunks on the devices of this process: started ahead, fetched as they finish."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._sweep.chunks import Chunk, Group, Points, padded

IN_FLIGHT = 2  # batches started before the oldest of them is fetched
_ONE_DEVICE = "jax_default_device"  # set by jax.default_device

Finished = Iterator[tuple[Chunk, dict[str, np.ndarray[Any, Any]]]]


def local_devices(devices: Sequence[jax.Device] | None) -> tuple[jax.Device, ...]:
    """The devices that were asked for, or all of them; or the one of JAX's setting."""
    if devices is None:
        if getattr(jax.config, _ONE_DEVICE) is not None:
            return tuple(jnp.zeros(()).devices())
        return tuple(jax.local_devices())
    chosen = tuple(devices) if isinstance(devices, Sequence) else ()
    known = jax.local_devices(
        backend=getattr(next(iter(chosen), None), "platform", None)
    )
    if not chosen or len({*chosen}) < len(chosen) or not {*chosen} <= {*known}:
        raise ValueError(
            f"devices must be None or a list of different devices of one platform, "
            f"such as jax.local_devices(), got {devices!r}."
        )
    return chosen


class Batches(NamedTuple):
    """One chunk for each device, as the arguments of one program."""

    program: jax.stages.Compiled
    devices: int
    group: Group
    given: Points

    def start(self, chunks: Sequence[Chunk]) -> dict[str, jax.Array]:
        """Starts the program; devices without a chunk repeat the last one."""
        group = self.group
        parts = [padded(chunk.trials, group.width) for chunk in chunks]
        idle = self.devices - len(chunks)
        lanes = np.concatenate([*parts, *parts[-1:] * idle])
        seeds = self.given.seeds[lanes]
        if group.shared_seed:
            seeds = seeds[:: group.width] if self.devices > 1 else seeds[0]
        started: dict[str, jax.Array] = self.program(seeds, self.given.at(lanes))
        return started

    def fetch(self, chunks: Sequence[Chunk], started: dict[str, jax.Array]) -> Finished:
        """What the trials of these chunks gave."""
        variables = jax.device_get(started)
        for place, chunk in enumerate(chunks):
            first = place * self.group.width
            mine = slice(first, first + len(chunk.trials))
            yield chunk, {name: values[mine] for name, values in variables.items()}


def on_devices(
    batches: Batches, chunks: Sequence[Chunk], stop: Callable[[], bool]
) -> Finished:
    """Runs the chunks of a program, one on each of its devices at a time.

    Asked to stop, it starts no more of them, and ends when all that run are fetched.
    """
    running: deque[tuple[Sequence[Chunk], dict[str, jax.Array]]] = deque()
    for first in range(0, len(chunks), batches.devices):
        if stop():
            break
        batch = chunks[first : first + batches.devices]
        running.append((batch, batches.start(batch)))
        if len(running) > IN_FLIGHT:
            yield from batches.fetch(*running.popleft())
    for batch, started in running:
        yield from batches.fetch(batch, started)
