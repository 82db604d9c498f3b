"""Running chunks on the devices of this process."""

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._sweep.background import Background, wait_for
from stabjax._sweep.free_memory import check_fits
from stabjax._sweep.plan import Chunk, Group
from stabjax._sweep.program import Inputs, Program
from stabjax._sweep.progress import Watch

IN_FLIGHT = 2  # batches that are dispatched before the oldest one is fetched
COMPILERS = 2  # threads that compile programs ahead of the devices
_ONE_DEVICE = "jax_default_device"  # set by jax.default_device

_Array = np.ndarray[Any, Any]
_Running = tuple[Sequence[Chunk], Future[dict[str, _Array]]]
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
        by_group: dict[int, list[Chunk]] = {}
        for chunk in sorted(chunks, key=lambda chunk: chunk.group):
            by_group.setdefault(chunk.group, []).append(chunk)
        with Background(COMPILERS) as compilers:
            compiled = {
                number: compilers.submit(
                    programs[number].compiled,
                    *groups[number].chunk,
                    devices[: len(together)],
                )
                for number, together in by_group.items()
            }
            for number, together in by_group.items():
                if watch.stopped():
                    return
                with watch.compiling():
                    program = wait_for(compiled.pop(number), watch.stopped_at_once)
                check_chunk_fits(program, groups[number].width, devices)
                size = min(len(devices), len(together))
                batches = [
                    together[i : i + size] for i in range(0, len(together), size)
                ]
                begin = partial(_started, program, size, inputs)
                width = groups[number].width
                for batch, variables in _in_flight(batches, begin, watch):
                    for place, chunk in enumerate(batch):
                        mine = slice(place * width, place * width + len(chunk.trials))
                        yield chunk, {name: v[mine] for name, v in variables.items()}

    return train


def _started(
    program: jax.stages.Compiled,
    devices: int,
    inputs: Callable[[Chunk], Inputs],
    batch: Sequence[Chunk],
) -> dict[str, jax.Array]:
    return start(program, devices, batch, [*map(inputs, batch)])


# XLA (jaxlib 0.10 to 0.12) takes 3 to 5 ms to report the memory of a program.
_known_bytes: weakref.WeakKeyDictionary[jax.stages.Compiled, int]
_known_bytes = weakref.WeakKeyDictionary()


def device_bytes(program: jax.stages.Compiled) -> int:
    """Returns the memory of running and waiting chunks on a device, or 0 if unknown."""
    known = _known_bytes.get(program)
    if known is None:
        found: Any = program.memory_analysis()
        known = 0
        if found is not None:
            waiting = found.argument_size_in_bytes + found.output_size_in_bytes
            known = int(found.temp_size_in_bytes + (IN_FLIGHT + 1) * waiting)
        _known_bytes[program] = known
    return known


def check_chunk_fits(
    program: jax.stages.Compiled, width: int, devices: Sequence[jax.Device]
) -> None:
    """Raises a ValueError if a chunk exceeds the memory of a device."""
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    shared = len(devices) if limit is None else 1  # CPU devices share the host memory
    check_fits(
        f"Chunks of {width:,} trials",
        shared * device_bytes(program),
        f"pass chunk_size={max(1, width // 2)} or less",
        limit,
    )


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
    begin: Callable[[Sequence[Chunk]], dict[str, jax.Array]],
    watch: Watch,
) -> Iterator[tuple[Sequence[Chunk], dict[str, _Array]]]:
    """Yields the results of batches in order, with a few batches dispatched ahead.

    Two threads start and fetch the batches, because on XLA:CPU the call that starts a
    program may return only when the program has finished. If a batch fails, the results
    of the other running batches are yielded before the error is raised, because they
    can still be stored.
    """
    waiting, running = deque(batches), deque[_Running]()
    failure: Exception | None = None
    with Background() as starter, Background() as fetcher:

        def fetched(started: Future[dict[str, jax.Array]]) -> dict[str, _Array]:
            found: dict[str, _Array] = jax.device_get(started.result())
            return found

        while waiting or running:
            if failure or watch.stopped():
                waiting.clear()
            while waiting and len(running) <= IN_FLIGHT:
                batch = waiting.popleft()
                started = starter.submit(begin, batch)
                running.append((batch, fetcher.submit(fetched, started)))
            if not running:
                break
            batch, future = running.popleft()
            try:
                variables = wait_for(future, watch.stopped_at_once)
            except Exception as error:
                failure = failure or error
            else:
                yield batch, variables
    if failure:
        raise failure
