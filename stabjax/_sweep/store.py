"""Sweep results in a folder with `spec.json` and one file per chunk."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stabjax._sweep.archive import Archive, Promise, numpy_dtype, packed, unpacked
from stabjax._sweep.files import read_regular, remove_leftovers, write_atomically
from stabjax._sweep.free_memory import TooLarge, free_bytes
from stabjax._sweep.lock import locked
from stabjax._sweep.plan import Chunk, Plan
from stabjax._sweep.spec_json import from_text, identities, newer, to_text, versions
from stabjax._sweep.warn import warn

_Array = np.ndarray[Any, Any]
_LARGEST_SPEC = 2**30  # bytes: 40 million sampled values
_PARSED = 24  # maximum memory of parsed JSON, relative to the size of its text
_SHOWN = 200  # characters of an error, which may quote a damaged file


class _Damage(Exception):
    """A file is damaged."""


class Store:
    """The folder of a sweep, which any number of processes can share."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._spec = self.folder / "spec.json"
        self._copy = self.folder / "chunks" / "spec.json"
        self._read: bytes | None = None  # the last spec.json that this process read
        self._whole = False  # whether it was valid

    def plan(self) -> Plan | None:
        """Returns the stored plan, or None if the store is new.

        If `spec.json` is missing or damaged, its copy among the chunks is used.
        """
        self._read = self._spec_seen()
        found, damage = None, None
        for path in (self._spec, self._copy):
            try:
                found = self._plan_in(path)
            except _Damage as error:
                damage = damage or error
            if found:
                self._whole = path == self._spec
                break
        name = f"spec.json in the store {str(self.folder)!r}"
        if damage and not found:
            raise ValueError(
                f"{name} is damaged ({damage}). Restore the file or use another store."
            )
        if damage:
            warn(f"{name} is damaged ({damage}). Using its copy.")
        return found

    def write_plan(self, plan: Plan) -> bool:
        """Creates or extends the store, and removes partial files of killed writers.

        Returns:
          True if the plan was stored. False if another process has changed the stored
          plan since it was read. The caller must then plan again.
        """
        content = to_text(plan).encode()
        try:
            self._copy.parent.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder, self._copy.parent):
                remove_leftovers(folder)
            if self._whole and (content == self._read or self._is_full(plan)):
                return True  # a finished store may be read-only
            with locked(self.folder / ".spec.lock"):
                if self._spec_seen() not in (self._read, content):
                    return False
                for path in (self._copy, self._spec):
                    write_atomically(path, content)
                self._read, self._whole = content, True
        except OSError as error:
            raise self._cannot("write to", error) from error
        return True

    def write_chunk(self, plan: Plan, chunk: Chunk, variables: Any) -> None:
        """Writes the results of a chunk atomically."""
        kept = {
            name: np.ascontiguousarray(values, numpy_dtype(values.dtype))
            for name, values in variables.items()
        }
        about = {"identity": identities(plan, chunk)[0], "versions": versions(plan)}
        try:
            write_atomically(self._file(chunk), packed(kept, about))
        except OSError as error:
            raise self._cannot("write to", error) from error

    def holds(self, chunk: Chunk) -> bool:
        """Returns whether the file of a chunk exists, without reading it."""
        return self._file(chunk).exists()

    def chunks(
        self, plan: Plan, chunks: Iterable[Chunk]
    ) -> Iterator[tuple[Chunk, dict[str, _Array]]]:
        """Yields stored chunks with their results, and warns about damaged files."""
        for chunk in chunks:
            try:
                found = self._archive(plan, chunk)
            except FileNotFoundError:
                continue
            except _Damage as error:
                warn(
                    f"{self._file(chunk)} is damaged ({error}). Its "
                    f"{len(chunk.trials)} trials count as not run."
                )
            else:
                yield chunk, found.variables

    def refused(self, reasons: list[str], hint: str = "") -> ValueError:
        """Returns the error for a sweep that does not match the store."""
        return ValueError(
            f"the store {str(self.folder)!r} contains another sweep: "
            f"{'; '.join(reasons)}. {hint}Use another store, or repeat the original "
            f"call. Axis values can be added."
        )

    def _plan_in(self, path: Path) -> Plan | None:
        """Returns the plan in a file, or None if there is no file."""
        content = self._content(path)
        if content is None:
            return None
        try:
            version = newer(content)
            plan = None if version else from_text(content)
        except TooLarge as error:
            raise ValueError(
                f"the store {str(self.folder)!r} cannot be opened: {error}"
            ) from error
        except Exception as error:  # unexpected JSON can cause any error
            raise _Damage(_reason(error)) from error
        if version:
            raise ValueError(
                f"the store {str(self.folder)!r} was written by stabjax {version} in a "
                f"newer format. Upgrade stabjax or use another store."
            )
        return plan

    def _archive(self, plan: Plan, chunk: Chunk) -> Archive:
        promise = Promise(len(chunk.trials), plan.groups[chunk.group].variables)
        try:
            found = unpacked(read_regular(self._file(chunk), promise.most), promise)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._cannot("read", error) from error
        except Exception as error:  # a flipped bit can cause any error
            raise _Damage(_reason(error)) from error
        if found.about["identity"] not in identities(plan, chunk):
            raise _Damage("it belongs to another sweep")
        return found

    def _is_full(self, plan: Plan) -> bool:
        return not plan.settings.rungs and all(map(self.holds, plan.chunks()))

    def _spec_seen(self) -> bytes | None:
        try:
            return self._content(self._spec)
        except _Damage as error:
            return str(error).encode()

    def _content(self, path: Path) -> bytes | None:
        try:
            return read_regular(path, min(_LARGEST_SPEC, free_bytes() // _PARSED))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._cannot("read", error) from error
        except ValueError as error:
            raise _Damage(_reason(error)) from error

    def _file(self, chunk: Chunk) -> Path:
        return self.folder / "chunks" / f"{chunk.number:06d}.npz"

    def _cannot(self, verb: str, error: OSError) -> OSError:
        return OSError(
            error.errno,
            f"cannot {verb} the store {str(self.folder)!r} ({error.strerror}). Its "
            f"contents are unchanged, and the same call resumes from there",
        )


def _reason(error: Exception) -> str:
    """Returns a short description of an error, which may quote a damaged file."""
    if isinstance(error, (LookupError, AttributeError, TypeError)) or not str(error):
        return "it does not have the expected format"
    return " ".join(str(error).split())[:_SHOWN].rstrip(".")
