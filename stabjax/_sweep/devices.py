"""Running chunks on the devices of this process."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._sweep.plan import Chunk, Group
from stabjax._sweep.program import Inputs, Program
from stabjax._sweep.progress import Watch

IN_FLIGHT = 2  # batches that are dispatched before the oldest one is fetched
_ONE_DEVICE = "jax_default_device"  # set by jax.default_device

_Array = np.ndarray[Any, Any]
_Running = tuple[Sequence[Chunk], dict[str, jax.Array]]
# A chunk with its results, or with the error that it raised.
Outcome = tuple[Chunk, dict[str, _Array] | Exception]
# A function that trains chunks, given a function that returns their inputs.
Trainer = Callable[
    [Sequence[Chunk], Callable[[Chunk], Inputs], Watch], Iterator[Outcome]
]


def local_devices(devices: Sequence[jax.Device] | None) -> tuple[jax.Device, ...]:
    """Returns the given devices, JAX's default device, or all local devices."""
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
            f"devices must be None or a list of distinct devices of one platform, "
            f"such as jax.local_devices(), got {devices!r}."
        )
    return chosen


def on_devices(
    devices: Sequence[jax.Device], programs: Sequence[Program], groups: Sequence[Group]
) -> Trainer:
    """Returns a function that trains one chunk per device at a time.

    After a stop request, the function waits for the running chunks and does not start
    new ones.
    """

    def train(
        chunks: Sequence[Chunk], inputs: Callable[[Chunk], Inputs], watch: Watch
    ) -> Iterator[Outcome]:
        chunks = sorted(chunks, key=lambda chunk: chunk.group)
        for number, members in itertools.groupby(chunks, lambda chunk: chunk.group):
            if watch.stopped():
                return
            together, group = list(members), groups[number]
            used = devices[: len(together)]
            with watch.compiling():
                program = programs[number].compiled(*group.chunk, used)
            size = len(used)
            begin = partial(_begun, program, size, inputs)
            batches = [together[i : i + size] for i in range(0, len(together), size)]
            for batch, variables in _in_flight(batches, begin, watch):
                for place, chunk in enumerate(batch):
                    first = place * group.width
                    mine = slice(first, first + len(chunk.trials))
                    yield chunk, {name: v[mine] for name, v in variables.items()}

    return train


def _begun(
    program: jax.stages.Compiled,
    devices: int,
    inputs: Callable[[Chunk], Inputs],
    batch: Sequence[Chunk],
) -> _Running:
    return batch, start(program, devices, batch, [*map(inputs, batch)])


def start(
    program: jax.stages.Compiled,
    devices: int,
    batch: Sequence[Chunk],
    inputs: list[Inputs],
) -> dict[str, jax.Array]:
    """Starts one chunk per device, repeating the last chunk if there are too few."""
    shared, lanes = inputs[0]
    if devices > 1:
        inputs = inputs + inputs[-1:] * (devices - len(batch))
        shared = jax.tree.map(lambda *xs: np.stack(xs), *(i[0] for i in inputs))
        lanes = jax.tree.map(lambda *xs: np.concatenate(xs), *(i[1] for i in inputs))
    started: dict[str, jax.Array] = program(shared, lanes)
    return started


def _in_flight(
    batches: Sequence[Sequence[Chunk]],
    begin: Callable[[Sequence[Chunk]], _Running],
    watch: Watch,
) -> Iterator[tuple[Sequence[Chunk], dict[str, _Array]]]:
    """Yields the results of batches in order, with a few batches dispatched ahead.

    If a batch fails, the results of the other running batches are yielded before the
    error is raised, because they can still be stored.
    """
    waiting, running = deque(batches), deque[_Running]()
    failure: Exception | None = None
    while waiting or running:
        if failure or watch.stopped():
            waiting.clear()
        try:
            if waiting and len(running) <= IN_FLIGHT:
                running.append(begin(waiting.popleft()))
                continue
            if not running:
                break
            batch, started = running.popleft()
            variables = jax.device_get(started)
        except Exception as error:
            failure = failure or error
        else:
            yield batch, variables
    if failure:
        raise failure
