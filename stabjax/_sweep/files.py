"""Files of a store: read within bounds, written atomically."""

import contextlib
import os
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_OLD = 86_400.0  # seconds; a file is written in some milliseconds


def read_regular(path: Path, most: int) -> bytes:
    """Returns the content of a regular file of at most `most` bytes.

    A link, a pipe or a device is never followed, waited for or read.

    Raises:
      ValueError: it is another kind of file, or longer.
      OSError: it is missing or cannot be read.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise ValueError("it is not a regular file.")
    content = b""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is not a regular file.")
        if found.st_size <= most:
            # `read` allocates what it is asked for, whatever the length of the file.
            content = file.read(found.st_size + 1)
    if max(found.st_size, len(content)) > most:
        raise ValueError(f"it is longer than {most:,} bytes.")
    return content


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file atomically, also for other processes."""
    partial = path.with_name(f".{path.name}.{_me()}.{uuid.uuid4().hex}")
    try:
        with open(partial, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def remove_leftovers(folder: Path) -> None:
    """Removes the partial files of writers that were killed.

    On this host a writer is known by its process, elsewhere by the age of the file.
    """
    for path in _partial_files(folder):
        host, _, process = path.name.split(".")[-2].rpartition("-")
        try:
            if host == _host() and process.isdecimal():
                left = not is_running(int(process))
            else:
                left = time.time() - path.lstat().st_mtime > _OLD
            if left:
                path.unlink()
        except OSError:  # removed by another process, or not ours to remove
            continue


def is_running(process: int) -> bool:
    """Returns whether this host has a process with this number."""
    if os.name != "posix":  # elsewhere os.kill ends the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return True


def _partial_files(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            # .000001.npz.HOST-PROCESS.HEX; up to version 0.1 without the writer
            if entry.name.startswith(".") and entry.name.count(".") >= 3:
                yield Path(entry.path)


def _me() -> str:
    return f"{_host()}-{os.getpid()}"


def _host() -> str:
    return socket.gethostname().replace(".", "_").replace(os.sep, "_")
