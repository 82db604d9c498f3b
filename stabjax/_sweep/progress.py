"""Progress bar and Ctrl-C handling for a running sweep."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm


def _progress_bar(total: int, shown: bool) -> Any:
    """Returns a progress bar that is visible only in a terminal or notebook."""
    in_notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    hidden = None if shown and not in_notebook else not shown  # None: terminal only
    return tqdm(total=total, unit="trial", disable=hidden)


_STOPPING = b"\nFinishing the running chunks. Press Ctrl-C again to stop now.\n"
_STOPPED = b"\nStopping now. Finished chunks are stored.\n"


class Requests:
    """Requests by Ctrl-C to stop after the running chunks, or to abandon them."""

    def __init__(self, announced: bool = True) -> None:
        self._first, self._second = threading.Event(), threading.Event()
        self._announced = announced

    def stopped(self) -> bool:
        """Returns whether to stop starting chunks."""
        return self._first.is_set()

    def stopped_at_once(self) -> bool:
        """Returns whether to abandon the running chunks."""
        return self._second.is_set()

    def add(self, number: int, frame: Any) -> None:
        """Handles a signal without raising, which might interrupt a write."""
        del number, frame
        if self._first.is_set():
            self._second.set()
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._first.set()
        if self._announced:  # print is not reentrant in a signal handler
            os.write(2, _STOPPED if self._second.is_set() else _STOPPING)


@contextlib.contextmanager
def _requests(wanted: bool) -> Iterator[Requests]:
    """Turns the first and second Ctrl-C into requests, so that chunks can be stored.

    A third Ctrl-C interrupts immediately. If the application has its own Ctrl-C
    handler, the handler is left in place.
    """
    requests = Requests()
    in_main = threading.current_thread() is threading.main_thread()
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not (wanted and in_main and usual):
        yield requests
        return
    signal.signal(signal.SIGINT, requests.add)
    try:
        yield requests
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Watch:
    """Tracks the progress, timing and stop requests of a running sweep."""

    bar: Any
    total: int  # trials
    stopped: Callable[[], bool]  # whether to stop starting chunks
    stopped_at_once: Callable[[], bool]  # whether to abandon running chunks
    start: float
    compile_seconds: float = 0.0
    done: int = 0  # trials, either trained or loaded from a store
    trained: int = 0
    diverged: int = 0

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Adds the time spent inside the context to the compilation time."""
        before = time.perf_counter()
        yield
        self.compile_seconds += time.perf_counter() - before

    def skip(self, trials: int) -> None:
        """Counts trials that need no training."""
        self.done += trials
        if not self.bar.disable:
            self.bar.initial += trials  # excluded from the displayed rate
            self.bar.n += trials
            self.bar.refresh()

    def count(self, status: np.ndarray[Any, Any]) -> None:
        """Counts trained trials, given their status."""
        self.done += len(status)
        self.trained += len(status)
        self.diverged += int((status == 1).sum())
        share = f"{self.diverged / self.trained:.1%}"
        self.bar.set_postfix(diverged=share, refresh=False)
        self.bar.update(len(status))

    def cost(self, trace_seconds: float) -> dict[str, float]:
        """Returns the timing attributes, counting tracing as compilation."""
        running = time.perf_counter() - self.start - self.compile_seconds
        return {
            "compile_seconds": round(trace_seconds + self.compile_seconds, 3),
            "seconds": round(running, 3),
            "runs_per_second": round(self.trained / running, 1),
        }


@contextlib.contextmanager
def watched(total: int, shown: bool, stoppable: bool) -> Iterator[Watch]:
    """Shows a progress bar and handles Ctrl-C if finished chunks are stored."""
    start = time.perf_counter()
    with _requests(stoppable) as asked, _progress_bar(total, shown) as bar:
        yield Watch(bar, total, asked.stopped, asked.stopped_at_once, start)
