"""Chunks as the tasks of any `concurrent.futures.Executor`."""

import functools
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from typing import Any

import jax
import numpy as np

from stabjax._sweep.compiler import configured, jax_config
from stabjax._sweep.devices import Outcome, Trainer
from stabjax._sweep.plan import Chunk, Group
from stabjax._sweep.program import Inputs, Program
from stabjax._sweep.progress import Watch

_SUBMITTED = 256  # tasks given to the executor before their results are taken
_ATTEMPTS = 2  # to train a chunk
_POLL = 0.05  # seconds, after which a second Ctrl-C is noticed

_Array = np.ndarray[Any, Any]


def by_executor(
    executor: Executor, programs: Sequence[Program], groups: Sequence[Group]
) -> Trainer:
    """Returns a function that trains chunks as tasks of an executor.

    A chunk that fails twice yields its error. After a request to stop it starts no more
    chunks and waits for the running ones.
    """
    recipes = [_packed(*pair) for pair in zip(programs, groups, strict=True)]

    def train(
        chunks: Sequence[Chunk], inputs: Callable[[Chunk], Inputs], watch: Watch
    ) -> Iterator[Outcome]:
        def submit(chunk: Chunk) -> Future[dict[str, _Array]]:
            return executor.submit(train_chunk, recipes[chunk.group], *inputs(chunk))

        try:
            yield from _outcomes(submit, chunks, watch)
        except (BrokenExecutor, CancelledError) as error:
            raise RuntimeError(
                f"the executor broke down ({type(error).__name__}: {error}). The "
                f"store, if there is one, holds the finished chunks, and the same call "
                f"with a new executor resumes from there."
            ) from error

    return train


def train_chunk(
    recipe: bytes, shared: Mapping[str, Any], lanes: Mapping[str, _Array]
) -> dict[str, _Array]:
    """The task of a worker: returns the results of a chunk."""
    with _lock:
        program, config = _program(recipe)
    with configured(config):
        found: dict[str, _Array] = jax.device_get(program(dict(shared), dict(lanes)))
    return found


def _outcomes(
    submit: Callable[[Chunk], "Future[dict[str, _Array]]"],
    chunks: Sequence[Chunk],
    watch: Watch,
) -> Iterator[Outcome]:
    waiting, attempts = deque(chunks), dict.fromkeys((c.number for c in chunks), 0)
    running: dict[Future[dict[str, _Array]], Chunk] = {}
    try:
        while waiting or running:
            if watch.stopped():
                waiting.clear()
                running = {f: c for f, c in running.items() if not f.cancel()}
            while waiting and len(running) < _SUBMITTED:
                chunk = waiting.popleft()
                attempts[chunk.number] += 1
                running[submit(chunk)] = chunk
            for future in _completed(running, watch):
                chunk = running.pop(future)
                error = future.exception()
                if error is None:
                    found, size = future.result(), len(chunk.trials)
                    yield chunk, {name: values[:size] for name, values in found.items()}
                elif _is_broken(error) or not isinstance(error, Exception):
                    raise error
                elif attempts[chunk.number] < _ATTEMPTS and not watch.stopped():
                    waiting.append(chunk)
                else:
                    yield chunk, error
    finally:
        for future in running:
            future.cancel()


def _packed(program: Program, group: Group) -> bytes:
    """A program as bytes, which a worker unpacks once for all of its chunks.

    `cloudpickle`, which comes with Dask, also pickles lambdas and functions of a
    script, so it is used if it is installed.
    """
    try:
        from cloudpickle import dumps
    except ModuleNotFoundError:
        from pickle import dumps
    try:
        content: bytes = dumps((program, group, jax_config()))
    except Exception as error:  # each library has its own
        raise TypeError(
            f"problem, make_optimizer and the static values must be picklable to be "
            f"sent to an executor ({error}): write functions with def at the top of a "
            f"module, and give a function that makes the problem instead of a problem, "
            f"or install cloudpickle."
        ) from error
    return content


def _completed(running: Mapping[Future[Any], Chunk], watch: Watch) -> list[Future[Any]]:
    """Waits for at least one task; those that broke with the executor come last."""
    done: set[Future[Any]] = set()
    while running and not done:
        if watch.stopped_at_once():
            raise KeyboardInterrupt
        done = wait(running, timeout=_POLL, return_when=FIRST_COMPLETED).done
    broken = [f for f in done if f.cancelled() or _is_broken(f.exception())]
    return [f for f in done if f not in broken] + broken


def _is_broken(error: BaseException | None) -> bool:
    return isinstance(error, BrokenExecutor)


_lock = threading.Lock()  # workers may be threads, and should compile once


@functools.lru_cache(maxsize=8)
def _program(recipe: bytes) -> tuple[jax.stages.Compiled, dict[str, Any]]:
    program, group, config = pickle.loads(recipe)
    with configured(config):
        here = program.fingerprint(group.width, group.shared_seed)
        if here != group.program:
            raise RuntimeError(
                f"this worker makes another program of the same functions: it has jax "
                f"{jax.__version__}, and results would differ."
            )
        device = jax.local_devices()[:1]
        return program.compiled(group.width, group.shared_seed, device), config
