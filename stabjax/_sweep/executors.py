"""Running chunks as tasks of a `concurrent.futures.Executor`."""

import functools
import multiprocessing
import pickle
import signal
import threading
import uuid
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

from stabjax._sweep.background import Background, wait_for
from stabjax._sweep.compiler import configured, jax_config
from stabjax._sweep.devices import Outcome, Trainer
from stabjax._sweep.plan import Chunk, Group
from stabjax._sweep.program import Inputs, Program
from stabjax._sweep.progress import Requests, Watch

_SUBMITTED = 256  # maximum number of unfinished tasks
_ATTEMPTS = 2  # per chunk
_POLL = 0.05  # seconds, after which a second Ctrl-C is noticed

_Array = np.ndarray[Any, Any]


def by_executor(
    executor: Executor, programs: Sequence[Program], groups: Sequence[Group]
) -> Trainer:
    """Returns a function that trains chunks as tasks of an executor.

    The function yields the error of a chunk that fails twice. After a stop request, it
    waits for the running chunks and does not start new ones. If it ends early, tasks
    in threads and processes of this terminal stop waiting for their programs, because
    an executor waits for its tasks when it shuts down.
    """
    recipes = [_packed(*pair) for pair in zip(programs, groups, strict=True)]

    def train(
        chunks: Sequence[Chunk], inputs: Callable[[Chunk], Inputs], watch: Watch
    ) -> Iterator[Outcome]:
        sweep = uuid.uuid4().hex

        def submit(chunk: Chunk) -> Future[dict[str, _Array]]:
            recipe = recipes[chunk.group]
            return executor.submit(train_chunk, recipe, *inputs(chunk), sweep)

        try:
            yield from _outcomes(submit, chunks, watch)
        except (BrokenExecutor, CancelledError) as error:
            if watch.stopped():  # Ctrl-C may also end workers
                raise KeyboardInterrupt from error
            raise RuntimeError(
                f"the executor broke ({type(error).__name__}: {error}). If the sweep "
                f"has a store, the finished chunks are saved. Repeat the call with a "
                f"new executor to resume."
            ) from error
        finally:
            _left.add(sweep)

    return train


def train_chunk(
    recipe: bytes,
    shared: Mapping[str, Any],
    lanes: Mapping[str, _Array],
    sweep: str,
) -> dict[str, _Array]:
    """Trains a chunk in a worker and returns its results.

    Raises KeyboardInterrupt if the sweep no longer waits for the results.
    """
    requests = _requests_of(sweep)
    with Background() as thread:
        return wait_for(
            thread.submit(_trained, recipe, shared, lanes),
            lambda: sweep in _left or requests.stopped_at_once(),
        )


_left: set[str] = set()  # sweeps of this process that wait for no task


@functools.lru_cache(maxsize=1)
def _requests_of(sweep: str) -> Requests:
    """Returns the Ctrl-C requests that a worker process receives during a sweep.

    Ctrl-C in a terminal also reaches worker processes, whose default handler would
    discard the running chunk at the first one. The handler stays in place between
    tasks, because the death of an idle worker breaks a `ProcessPoolExecutor`.
    """
    del sweep
    requests = Requests(announced=False)
    known = signal.getsignal(signal.SIGINT)
    ours = isinstance(getattr(known, "__self__", None), Requests)
    if (
        multiprocessing.parent_process() is not None
        and threading.current_thread() is threading.main_thread()
        and (ours or known is signal.default_int_handler)
    ):
        signal.signal(signal.SIGINT, requests.add)
    return requests


def _trained(
    recipe: bytes, shared: Mapping[str, Any], lanes: Mapping[str, _Array]
) -> dict[str, _Array]:
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
    """Pickles a program, so that a worker can unpickle it once for all of its chunks.

    Uses `cloudpickle` if it is installed (Dask depends on it), because it also pickles
    lambdas and functions that are defined in a script.
    """
    try:
        from cloudpickle import dumps
    except ModuleNotFoundError:
        from pickle import dumps
    try:
        content: bytes = dumps((program, group, jax_config()))
    except Exception as error:  # the type depends on the library
        raise TypeError(
            f"problem, make_optimizer and the static values must be picklable if "
            f"executor is given ({error}). Install cloudpickle, or define functions "
            f"at the top level of a module and pass a function that returns the "
            f"problem."
        ) from error
    return content


def _completed(running: Mapping[Future[Any], Chunk], watch: Watch) -> list[Future[Any]]:
    """Waits for at least one task and lists tasks without a result last."""
    done: set[Future[Any]] = set()
    while running and not done:
        at_once = watch.stopped_at_once()
        poll = 0.0 if at_once else _POLL
        done = wait(running, timeout=poll, return_when=FIRST_COMPLETED).done
        if at_once and not done:
            raise KeyboardInterrupt
    return sorted(done, key=lambda f: f.cancelled() or f.exception() is not None)


def _is_broken(error: BaseException | None) -> bool:
    return isinstance(error, BrokenExecutor)


_lock = threading.Lock()  # worker threads must compile only once


@functools.lru_cache(maxsize=8)
def _program(recipe: bytes) -> tuple[jax.stages.Compiled, dict[str, Any]]:
    program, group, config = pickle.loads(recipe)
    with configured(config):
        here = program.fingerprint(*group.chunk)
        if here != group.program:
            raise RuntimeError(
                f"this worker (jax {jax.__version__}) compiles the functions to a "
                f"different program, whose results would differ. Install the same "
                f"versions of Python packages on all workers."
            )
        device = jax.local_devices()[:1]
        return program.compiled(*group.chunk, device), config
