"""The progress of a running sweep, and requests to stop it."""

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
    """A bar of the trials in a terminal or a notebook; hidden elsewhere."""
    in_notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    hidden = None if shown and not in_notebook else not shown  # None asks the terminal
    return tqdm(total=total, unit="trial", disable=hidden)


_STOPPING = b"\nstopping after the running chunks; Ctrl-C again stops at once\n"


@contextlib.contextmanager
def _stop_requests(wanted: bool) -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a request, so that the running chunks can be stored.

    Yields a function that returns whether there was one. A second Ctrl-C interrupts at
    once. If the program handles Ctrl-C itself, nothing is changed.
    """
    requested = threading.Event()

    def request(number: int, frame: Any) -> None:
        del number, frame
        requested.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, _STOPPING)  # print is not reentrant

    in_main = threading.current_thread() is threading.main_thread()
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not (wanted and in_main and usual):
        yield requested.is_set
        return
    signal.signal(signal.SIGINT, request)
    try:
        yield requested.is_set
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Watch:
    """The bar of a running sweep, its time, and whether it should stop."""

    bar: Any
    total: int  # trials
    stopped: Callable[[], bool]
    start: float
    compile_seconds: float = 0.0
    done: int = 0  # trials, whether trained or read from a store
    trained: int = 0
    diverged: int = 0

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Counts the time inside the context as compilation."""
        before = time.perf_counter()
        yield
        self.compile_seconds += time.perf_counter() - before

    def skip(self, trials: int) -> None:
        """Counts trials that need no training."""
        self.done += trials
        if not self.bar.disable:
            self.bar.initial += trials  # not part of the rate that the bar shows
            self.bar.n += trials
            self.bar.refresh()

    def count(self, status: np.ndarray[Any, Any]) -> None:
        """Counts trials that were trained, by their status."""
        self.done += len(status)
        self.trained += len(status)
        self.diverged += int((status == 1).sum())
        share = f"{self.diverged / self.trained:.1%}"
        self.bar.set_postfix(diverged=share, refresh=False)
        self.bar.update(len(status))

    def cost(self, trace_seconds: float) -> dict[str, float]:
        """Returns the times for the dataset; tracing counts as compilation."""
        running = time.perf_counter() - self.start - self.compile_seconds
        return {
            "compile_seconds": round(trace_seconds + self.compile_seconds, 3),
            "seconds": round(running, 3),
            "runs_per_second": round(self.trained / running, 1),
        }


@contextlib.contextmanager
def watched(total: int, shown: bool, stoppable: bool) -> Iterator[Watch]:
    """Shows a bar of all trials; catches Ctrl-C if finished chunks are stored."""
    start = time.perf_counter()
    with _stop_requests(stoppable) as stopped, _progress_bar(total, shown) as bar:
        yield Watch(bar, total, stopped, start)
