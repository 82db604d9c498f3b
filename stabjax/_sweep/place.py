"""Devices, executors and stores of a sweep."""

import operator
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import jax

from stabjax._sweep.devices import local_devices
from stabjax._sweep.store import Store


class Place(NamedTuple):
    """The execution settings of a sweep, which do not affect its results."""

    devices: tuple[jax.Device, ...]
    executor: Executor | None
    part: tuple[int, int]  # index of this process, number of processes
    store: Store | None
    progress: bool
    accept_versions: bool = False  # results of other versions of JAX and Optax
    on_chunk: Callable[[Any], object] | None = None  # called with the runs of a chunk


def place_of(
    store: str | os.PathLike[str] | None,
    devices: Sequence[jax.Device] | None,
    executor: Executor | None,
    part: tuple[int, int] | None,
    progress: bool,
    accept_versions: bool = False,
) -> Place:
    """Validates the execution settings of a sweep."""
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(
            f"executor must be a concurrent.futures.Executor, such as "
            f"ProcessPoolExecutor(), got {type(executor).__name__}."
        )
    if executor is not None and devices is not None:
        raise ValueError("devices must be None if executor is given.")
    chosen = local_devices(devices)
    if part is None and jax.process_count() > 1:
        part = jax.process_index(), jax.process_count()
    mine = (0, 1) if part is None else _checked_part(part)
    if mine[1] > 1 and store is None:
        raise ValueError(
            f"store must be given for part {mine[0]} of {mine[1]}, got None. Pass a "
            f"folder that all processes share."
        )
    kept = None if store is None else Store(store)
    return Place(chosen, executor, mine, kept, progress, accept_versions)


def _checked_part(part: object) -> tuple[int, int]:
    try:
        mine, number = map(operator.index, part)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        mine, number = -1, 0
    if not 0 <= mine < number:
        raise ValueError(
            f"part must be a tuple (i, n) with i in [0, n - 1], got {part!r}."
        )
    return mine, number
