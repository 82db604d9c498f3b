"""Calls in background threads, which the main thread can abandon at any time."""

import atexit
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from stabjax._sweep.compiler import configured, jax_config

_POLL = 0.05  # seconds
_INTERRUPTED = 130  # exit code of a shell command after Ctrl-C

_T = TypeVar("_T")
_Call = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


class Background:
    """Threads that run calls in order, with the JAX settings of the caller.

    Python handles Ctrl-C only between bytecode instructions, so a thread cannot be
    interrupted while XLA compiles or runs. The main thread therefore only waits. The
    threads are daemons and end with the process or the context.
    """

    def __init__(self, threads: int = 1) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._waiting: list[Future[Any]] = []
        self._threads = threads

    def __enter__(self) -> "Background":
        for _ in range(self._threads):
            given = (self._calls, jax_config())
            threading.Thread(target=_work, args=given, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        for future in self._waiting:
            if not future.cancel():
                (_abandoned if interrupted else _unneeded).add(future)
        for _ in range(self._threads):
            self._calls.put(None)

    def submit(self, function: Callable[..., _T], *arguments: Any) -> "Future[_T]":
        """Queues a call and returns its future."""
        future: Future[_T] = Future()
        self._waiting = [known for known in self._waiting if not known.done()]
        self._waiting.append(future)
        self._calls.put((future, function, arguments))
        return future


def wait_for(future: "Future[_T]", at_once: Callable[[], bool]) -> _T:
    """Waits for the result of a call, or raises KeyboardInterrupt if requested.

    In that case, the call continues to run and its result is discarded.
    """
    try:
        while not future.done():
            if at_once():
                raise KeyboardInterrupt
            try:
                return future.result(_POLL)
            except TimeoutError:
                continue
    except KeyboardInterrupt:
        if not future.cancel():
            _abandoned.add(future)
        raise
    return future.result()


def _work(calls: "queue.SimpleQueue[_Call | None]", config: dict[str, Any]) -> None:
    with configured(config):
        while (call := calls.get()) is not None:
            future, function, arguments = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)
            del call, future, function, arguments  # frees memory while waiting


_abandoned: weakref.WeakSet[Future[Any]] = weakref.WeakSet()  # by Ctrl-C
_unneeded: weakref.WeakSet[Future[Any]] = weakref.WeakSet()  # after an error


@atexit.register
def _leave() -> None:
    """Ends the process even if an abandoned call is still running in XLA.

    JAX (0.10 to 0.12) waits for running programs in its own exit handler, which was
    registered earlier and is therefore called later. Without Ctrl-C, the process waits
    for the calls: its exit code is unknown here, and XLA aborts if Python ends first.
    """
    try:
        if all(future.done() for future in _abandoned):
            wait(list(_unneeded))
            return
    except KeyboardInterrupt:
        pass
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(_INTERRUPTED)
