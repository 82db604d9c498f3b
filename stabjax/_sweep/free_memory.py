"""Memory checks: how much a sweep needs, and how much is available."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

_ALWAYS = 2**26  # bytes; smaller sizes are not checked, which saves 0.3 ms each
_CGROUP = Path("/sys/fs/cgroup")


class TooLarge(ValueError):
    """The request does not fit in memory."""


def free_bytes() -> int:
    """Returns how many bytes this process can still allocate, or 2**62 if unknown."""
    return max(0, min(_limits(), default=2**62))


def check_fits(what: str, size: int, advice: str, free: int | None = None) -> None:
    """Raises `TooLarge` if something is larger than the free memory.

    Args:
      what: the beginning of a sentence, such as "The results of 10 trials".
      size: number of bytes needed.
      advice: the end of the sentence: which argument to reduce.
      free: number of free bytes. Defaults to those of this computer.
    """
    if size <= _ALWAYS:
        return
    free = free_bytes() if free is None else free
    if size > free:
        raise TooLarge(
            f"{what} need {readable(size)}, but only {readable(free)} of memory is "
            f"free: {advice}."
        )


def readable(size: float) -> str:
    """Formats a number of bytes with a suitable unit."""
    power = min(int(math.log(max(size, 1), 1000)), 6)
    digits = 0 if power == 0 else 1 if size < 9.95 * 1000**power else 0
    return f"{size / 1000**power:,.{digits}f} {('B', 'kB', *_UNITS)[power]}"


_UNITS = ("MB", "GB", "TB", "PB", "EB")


def _limits() -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError, IndexError):  # Linux
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield 1024 * int(line.split()[1])
    with contextlib.suppress(OSError, ValueError):  # in a container; "max" if unlimited
        most = int((_CGROUP / "memory.max").read_text())
        yield most - _held_by_the_container()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _held_by_the_container() -> int:
    """Returns the container's memory use without the page cache, which can be freed."""
    held = int((_CGROUP / "memory.current").read_text())
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        cache = next(line for line in lines if line.startswith("inactive_file "))
        held -= int(cache.split()[1])
    return held
