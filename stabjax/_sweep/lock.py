"""A lock file for processes that share a file system."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

_PATIENCE = 30.0  # seconds; a lock is usually held for a few milliseconds
_PAUSE = 0.01


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock file at the given path.

    If the process that holds the lock has died, the lock is taken over, immediately on
    the same host and after 30 seconds on another host. `flock` would release the lock
    automatically, but some network file systems do not support it.
    """
    while not _taken(path):
        if _is_abandoned(path):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _taken(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        json.dump({"host": socket.gethostname(), "process": os.getpid()}, file)
    return True


def _is_abandoned(path: Path) -> bool:
    try:
        age = time.time() - path.stat().st_mtime
        owner = json.loads(path.read_text())
        here = owner["host"] == socket.gethostname()
        process = int(owner["process"])
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):  # the owner died while writing
        here, process = False, 0
    if here and process != os.getpid():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        except OSError:  # the process belongs to another user
            pass
    return age > _PATIENCE
