"""What a sweep needs in memory, and what this computer has."""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax

from stabjax._sweep.archive import bytes_of_a_trial
from stabjax._sweep.space import Space

_CGROUP = Path("/sys/fs/cgroup")
_PER_TRIAL = 40  # bytes: its number, its seed, its places in chunks and groups
_PER_AXIS = 12  # bytes: the position of its value, and a temporary one

_Variables = Mapping[str, jax.ShapeDtypeStruct]


class TooLarge(ValueError):
    """What is asked for does not fit into memory."""


def free_bytes() -> int:
    """Returns the memory that this process can still allocate; 2**62 if unknown."""
    return max(0, min(_limits(), default=2**62))


def check_fits(what: str, size: int, remedy: str) -> None:
    """Raises `TooLarge` if something is larger than the free memory.

    Args:
      what: the beginning of a sentence, such as "The results of 10 trials".
      size: the bytes that it needs.
      remedy: the end of the sentence: which argument to reduce.
    """
    free = free_bytes()
    if size > free:
        raise TooLarge(
            f"{what} need {readable(size)}, and {readable(free)} of memory are free: "
            f"{remedy}."
        )


def host_bytes(space: Space, groups: Iterable[_Variables]) -> int:
    """Returns what the trials of a space and their results need in this process.

    Args:
      space: the space.
      groups: the results of a trial in each program.
    """
    known: dict[str, int] = {}
    for variables in groups:
        for name, like in variables.items():
            size = bytes_of_a_trial({name: like})
            known[name] = max(size, known.get(name, 0))
    return len(space) * (
        _PER_TRIAL + _PER_AXIS * len(space.dimensions) + sum(known.values())
    )


def readable(size: float) -> str:
    """Returns a number of bytes in the unit that suits it."""
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
    """Its memory without the page cache, which the kernel frees on demand."""
    held = int((_CGROUP / "memory.current").read_text())
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        cache = next(line for line in lines if line.startswith("inactive_file "))
        held -= int(cache.split()[1])
    return held
