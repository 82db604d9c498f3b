"""A lock file for processes that share a file system."""

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from stabjax._sweep.files import is_running, read_regular

_PATIENCE = 30.0  # seconds; a lock is usually held for a few milliseconds
_PAUSE = 0.01
_MOST = 4096  # bytes of a lock file


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock file at the given path.

    If the process that holds the lock has died, the lock is taken over: immediately on
    the same host, otherwise after it has not changed for 30 seconds on the clock of
    this process. `flock` would release the lock automatically, but some network file
    systems do not support it.
    """
    seen, since = _owner(path), time.monotonic()
    while not _taken(path):
        if (now := _owner(path)) != seen:
            seen, since = now, time.monotonic()
        if _has_died(seen) or time.monotonic() - since > _PATIENCE:
            # Two processes may find the same abandoned lock. With a second lock, the
            # later process notices that the owner has changed.
            with locked(path.with_name(f"{path.name}.takeover")):
                if _owner(path) == seen:
                    _remove(path)
        time.sleep(_PAUSE)
    mine = _owner(path)
    try:
        yield
    finally:
        if _owner(path) == mine:  # not taken over while this process was suspended
            _remove(path)


def _taken(path: Path) -> bool:
    owner = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "lock": uuid.uuid4().hex,
    }
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        json.dump(owner, file)
    return True


def _owner(path: Path) -> tuple[int, bytes] | None:
    """Returns values that identify a lock, or None if there is no lock."""
    try:
        number = os.lstat(path).st_ino
    except FileNotFoundError:
        return None
    try:
        return number, read_regular(path, _MOST)
    except (OSError, ValueError):  # removed in the meantime, or not our file
        return number, b""


def _has_died(owner: tuple[int, bytes] | None) -> bool:
    """Returns whether the process that holds a lock is known to have ended."""
    try:
        about = json.loads(owner[1]) if owner else {}
        here = about["host"] == socket.gethostname()
        process = int(about["process"])
    except Exception:  # truncated when the process died, or not our file
        return False
    return here and process != os.getpid() and not is_running(process)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
