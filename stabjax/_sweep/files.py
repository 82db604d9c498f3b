"""Reading files of a store with a size limit, and writing them atomically."""

import contextlib
import os
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_OLD = 86_400.0  # seconds; writing a file takes a few milliseconds


def read_regular(path: Path, most: int) -> bytes:
    """Returns the content of a regular file of at most `most` bytes.

    Does not follow links, wait for pipes or read devices.

    Raises:
      ValueError: If it is not a regular file or too long.
      OSError: If it is missing or cannot be read.
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
            # `read` allocates the requested size, regardless of the file's length.
            content = file.read(found.st_size + 1)
    if max(found.st_size, len(content)) > most:
        raise ValueError(f"it is longer than {most:,} bytes.")
    return content


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file atomically, so other processes never see part of it."""
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
    """Removes partial files of writers that were killed.

    A file is removed if its writer has ended or, on other hosts, if it is a day old.
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
        except OSError:  # removed by another process, or not permitted
            continue


def is_running(process: int) -> bool:
    """Returns whether a process with this ID is running on this host."""
    if os.name != "posix":  # os.kill would end the process on Windows
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def _partial_files(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            # .000001.npz.HOST-PROCESS.HEX; versions up to 0.1 omit the writer
            if entry.name.startswith(".") and entry.name.count(".") >= 3:
                yield Path(entry.path)


def _me() -> str:
    return f"{_host()}-{os.getpid()}"


def _host() -> str:
    return socket.gethostname().replace(".", "_").replace(os.sep, "_")
