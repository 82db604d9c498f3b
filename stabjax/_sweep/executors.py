"""Chunks as the tasks of any `concurrent.futures.Executor`, on whatever machines."""

import contextlib
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
from typing import Any, NamedTuple

import jax
import numpy as np

from stabjax._sweep.chunks import Chunk, Group, Points, padded
from stabjax._sweep.factories import Factories
from stabjax._sweep.program import Settings, Trials

_SUBMITTED = 256  # tasks given to the executor before their results are taken
_ATTEMPTS = 2  # of a chunk, before it is said to fail

_Array = np.ndarray[Any, Any]
_Outcome = tuple[Chunk, dict[str, _Array] | Exception]


class Recipe(NamedTuple):
    """All that a worker needs to make the program of a group."""

    factories: Factories
    statics: dict[str, Any]
    numbers: dict[str, np.dtype[Any]]
    settings: Settings
    group: Group
    config: dict[str, Any]  # of JAX


def packed(recipe: Recipe) -> bytes:
    """A recipe as bytes, which a worker unpacks once for all of its chunks.

    With `cloudpickle`, which comes with Dask, where it is installed: it takes lambdas
    and functions of a script along.
    """
    try:
        from cloudpickle import dumps
    except ModuleNotFoundError:
        from pickle import dumps
    try:
        content: bytes = dumps(recipe)
    except Exception as error:  # each library has its own
        raise TypeError(
            f"problem, make_optimizer and the static values must be picklable to be "
            f"sent to an executor ({error}): write functions with def at the top of a "
            f"module, and give a function that makes the problem instead of a problem, "
            f"or install cloudpickle."
        ) from error
    return content


def train_chunk(
    recipe: bytes, seeds: _Array, numbers: Mapping[str, _Array]
) -> dict[str, _Array]:
    """The task of a worker: what the trials of a chunk give."""
    with _lock:
        program, config = _program(recipe)
    with _configured(config):
        found: dict[str, _Array] = jax.device_get(program(seeds, numbers))
    return found


class Tasks(NamedTuple):
    """Chunks as the arguments of `train_chunk`."""

    recipes: Sequence[bytes]
    groups: Sequence[Group]
    given: Points

    def arguments(self, chunk: Chunk) -> tuple[bytes, _Array, dict[str, _Array]]:
        """What a worker is sent."""
        group = self.groups[chunk.group]
        lanes = padded(chunk.trials, group.width)
        seeds = self.given.seeds[lanes[0] if group.shared_seed else lanes]
        return self.recipes[chunk.group], seeds, self.given.at(lanes)


def by_executor(
    executor: Executor,
    tasks: Tasks,
    chunks: Sequence[Chunk],
    stop: Callable[[], bool],
) -> Iterator[_Outcome]:
    """Runs the chunks as tasks; gives what they gave, or the error of the last attempt.

    Asked to stop, it starts no more of them, and ends when all that run are fetched.
    """
    waiting, attempts = deque(chunks), dict.fromkeys((c.number for c in chunks), 0)
    running: dict[Future[dict[str, _Array]], Chunk] = {}
    try:
        while waiting or running:
            if stop():
                waiting.clear()
                running = {f: c for f, c in running.items() if not f.cancel()}
            while waiting and len(running) < _SUBMITTED:
                chunk = waiting.popleft()
                attempts[chunk.number] += 1
                future = executor.submit(train_chunk, *tasks.arguments(chunk))
                running[future] = chunk
            for future in _completed(running):
                chunk = running.pop(future)
                error = future.exception()
                if error is None:
                    yield chunk, _trimmed(future.result(), len(chunk.trials))
                elif _is_broken(error) or not isinstance(error, Exception):
                    raise error
                elif attempts[chunk.number] < _ATTEMPTS and not stop():
                    waiting.append(chunk)
                else:
                    yield chunk, error
    except (BrokenExecutor, CancelledError) as error:
        raise RuntimeError(
            f"the executor broke down ({type(error).__name__}: {error}): what was "
            f"finished is in the store, if there is one, and the same call with a new "
            f"executor resumes from there."
        ) from error
    finally:
        for future in running:
            future.cancel()


def _completed(running: Mapping[Future[Any], Chunk]) -> list[Future[Any]]:
    """Waits for one task at least; those that broke with the executor come last."""
    done = wait(running, return_when=FIRST_COMPLETED).done
    broken = [f for f in done if f.cancelled() or _is_broken(f.exception())]
    return [f for f in done if f not in broken] + broken


def _is_broken(error: BaseException | None) -> bool:
    return isinstance(error, BrokenExecutor)


def _trimmed(variables: dict[str, _Array], length: int) -> dict[str, _Array]:
    return {name: values[:length] for name, values in variables.items()}


_lock = threading.Lock()  # workers may be threads, and should compile once


@functools.lru_cache(maxsize=8)
def _program(recipe: bytes) -> tuple[jax.stages.Compiled, dict[str, Any]]:
    factories, statics, numbers, settings, group, config = pickle.loads(recipe)
    with _configured(config):
        trials = Trials(factories, statics, numbers, settings)
        here = trials.fingerprint(group.width, group.shared_seed)
        if here != group.program:
            raise RuntimeError(
                f"this worker makes another program of the same functions: it has jax "
                f"{jax.__version__}, and results would differ."
            )
        return trials.compiled(group, jax.local_devices()[:1]), config


@contextlib.contextmanager
def _configured(config: Mapping[str, Any]) -> Iterator[None]:
    """The settings of JAX that the sweep was called with."""
    with contextlib.ExitStack() as stack:
        for name, value in config.items():
            stack.enter_context(getattr(jax, name.removeprefix("jax_"))(value))
        yield
