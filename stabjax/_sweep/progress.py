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
_STOPPED = b"\nstopping at once; finished chunks are stored\n"


class Requests:
    """What Ctrl-C has asked for: to finish the running chunks, or to leave them."""

    def __init__(self) -> None:
        self._first, self._second = threading.Event(), threading.Event()

    def stopped(self) -> bool:
        """Returns whether to start nothing more."""
        return self._first.is_set()

    def stopped_at_once(self) -> bool:
        """Returns whether not to wait for what runs."""
        return self._second.is_set()

    def add(self, number: int, frame: Any) -> None:
        """Handles a signal. It raises nothing, as a chunk may be being stored."""
        del number, frame
        if self._first.is_set():
            self._second.set()
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._first.set()
        os.write(2, _STOPPED if self._second.is_set() else _STOPPING)  # print may lock


@contextlib.contextmanager
def _requests(wanted: bool) -> Iterator[Requests]:
    """Turns the first two Ctrl-C into requests, so that chunks can be stored.

    A third one interrupts at any line. If the program handles Ctrl-C itself, nothing is
    changed.
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
    """The bar of a running sweep, its time, and whether it should stop."""

    bar: Any
    total: int  # trials
    stopped: Callable[[], bool]  # whether to start nothing more
    stopped_at_once: Callable[[], bool]  # whether not to wait for what runs
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
    with _requests(stoppable) as asked, _progress_bar(total, shown) as bar:
        yield Watch(bar, total, asked.stopped, asked.stopped_at_once, start)
