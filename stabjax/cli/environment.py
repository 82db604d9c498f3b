"""Device setup, output checks, error handling and logging for all commands."""

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import jax

# The type of `add_subparsers()`. It is generic only in the type stubs of argparse.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

PICTURES = (".png", ".svg", ".pdf")
_ERRORS = (ValueError, TypeError, OSError, ModuleNotFoundError, MemoryError)
# Python syntax in messages, and the syntax of the command line.
_SPELLINGS = (
    (r"static\(\[(.*?)\]\)", r"static:\1"),
    (r"range\((\d+)\)", r"0:\1"),
    (r"\bmake_optimizer\b", "the optimizer"),
    (r", known at trace time,", ","),
    (r"\b(rate|threshold)_range\b", r"--\1-range"),
)


def prepare_jax(devices: int | None = None) -> None:
    """Creates one CPU device per core and caches compiled programs in `~/.cache`."""
    number = devices or os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # JAX is already initialized
        jax.config.update("jax_num_cpu_devices", number)
    # By default, JAX does not cache compilations that take less than a second. Most
    # programs of small sweeps are in this category.
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home, "stabjax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def check_output(path: str | None, kinds: Sequence[str] = ()) -> None:
    """Raises an error if the output file cannot be written."""
    if path is None:
        return
    folder = Path(path).parent
    if not folder.is_dir() or Path(path).is_dir():
        raise ValueError(f"--out must be a file in an existing folder, got {path!r}.")
    if kinds and Path(path).suffix.lower() not in kinds:
        *first, last = kinds
        raise ValueError(
            f"--out must end in {', '.join(first)} or {last}, got {path!r}."
        )
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
        parser.error(in_words(str(error) or type(error).__name__))


def in_words(message: str) -> str:
    """Formats a message as a single line, with the syntax of the command line."""
    for pattern, words in _SPELLINGS:
        message = re.sub(pattern, words, message)
    return " ".join(message.split())


def integer(text: str) -> int:
    """Parses an integer for argparse."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, got {text!r}.") from None


def number(text: str) -> float:
    """Parses a number for argparse."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}.") from None


def log(line: str) -> None:
    """Prints a line to standard error. Standard output is reserved for results."""
    print(line, file=sys.stderr, flush=True)
