"""What is seen of a running sweep, and how it is stopped."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm


def progress_bar(total: int, done: int, shown: bool) -> Any:
    """One bar of the trials, in a terminal or a notebook; quiet where there is none."""
    in_notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    hidden = None if shown and not in_notebook else not shown  # None asks the terminal
    return tqdm(total=total, initial=done, unit="trial", disable=hidden)


_STOPPING = b"\nstopping when what is in hand is done; Ctrl-C again stops at once\n"


@contextlib.contextmanager
def stop_requests(wanted: bool) -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a request, so that the work in hand can be kept.

    Gives a function that says whether there was one. A second Ctrl-C interrupts at
    once. Where the program handles Ctrl-C in its own way, nothing is changed.
    """
    requested = threading.Event()

    def request(number: int, frame: Any) -> None:
        del number, frame
        requested.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, _STOPPING)  # a print could meet another, half done

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
class Clock:
    """Where the time went."""

    start: float
    compiling: float = 0.0

    def cost(self, traced: float, trials: int) -> dict[str, float]:
        """What the dataset says of it, after so many trainings."""
        running = time.perf_counter() - self.start - self.compiling
        return {
            "compile_seconds": round(traced + self.compiling, 3),
            "seconds": round(running, 3),
            "trainings_per_second": round(trials / running, 1),
        }
