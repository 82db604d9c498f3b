"""Device setup, output checks, error handling and logging for all commands."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import jax

from stabjax._arguments import as_integer

# The type of `add_subparsers()`. It is generic only in the type stubs of argparse.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_ERRORS = (ValueError, TypeError, OSError, ModuleNotFoundError)


def prepare_jax(devices: int | None = None) -> None:
    """Creates one CPU device per core and caches compiled programs in `~/.cache`."""
    number = as_integer("devices", devices or os.cpu_count() or 1)
    with contextlib.suppress(RuntimeError):  # JAX is already initialized
        jax.config.update("jax_num_cpu_devices", number)
    # By default, JAX does not cache compilations that take less than a second. Most
    # programs of small sweeps are in this category.
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home, "stabjax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def check_output(path: str | None) -> None:
    """Raises an error if the output file cannot be written."""
    if path is None:
        return
    folder = Path(path).parent
    if not folder.is_dir() or Path(path).is_dir():
        raise ValueError(f"--out must be a file in an existing folder, got {path!r}.")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--out must be in a writable folder, got {path!r}.")


@contextlib.contextmanager
def errors_in_one_sentence(
    parser: argparse.ArgumentParser, errors: tuple[type[Exception], ...] = _ERRORS
) -> Iterator[None]:
    """Exits with an error message and exit code 2, without a traceback."""
    try:
        yield
    except errors as error:
        # Messages of other libraries can span several lines.
        parser.error(" ".join(str(error).split()))


def log(line: str) -> None:
    """Prints a line to standard error. Standard output is reserved for results."""
    print(line, file=sys.stderr, flush=True)
