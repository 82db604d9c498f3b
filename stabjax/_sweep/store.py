"""Sweep results in a folder with `spec.json` and one file per chunk."""

import contextlib
import hashlib
import io
import json
import os
import uuid
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from stabjax._sweep.lock import locked
from stabjax._sweep.plan import Chunk, Plan
from stabjax._sweep.spec import from_text, identity, newer, to_text

_Array = np.ndarray[Any, Any]


class Store:
    """The folder of a sweep, which any number of processes can share."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._spec = self.folder / "spec.json"
        self._read: str | None = None  # the last spec.json that this process read

    def plan(self) -> Plan | None:
        """Returns the stored plan, or None if the store is new."""
        self._read = text = self._text()
        if text is None:
            return None
        try:
            version = newer(text)
            plan = None if version else from_text(text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"spec.json in the store {str(self.folder)!r} is damaged ({error}). "
                f"Restore the file or use another store."
            ) from error
        if version:
            raise ValueError(
                f"the store {str(self.folder)!r} was written by stabjax {version} in a "
                f"newer format. Upgrade stabjax or use another store."
            )
        return plan

    def write_plan(self, plan: Plan) -> bool:
        """Creates or extends the store.

        Returns:
          True if the plan was stored. False if another process has changed the stored
          plan since it was read. The caller must then plan again.
        """
        text = to_text(plan)
        try:
            (self.folder / "chunks").mkdir(parents=True, exist_ok=True)
            if self._read is not None and (text == self._read or self._is_full(plan)):
                return True  # a finished store can be read-only
            with locked(self.folder / ".spec.lock"):
                if self._text() not in (self._read, text):
                    return False
                _write(self._spec, text.encode())
                self._read = text
        except OSError as error:
            raise self._cannot("write to", error) from error
        return True

    def write_chunk(self, plan: Plan, chunk: Chunk, variables: Any) -> None:
        """Writes the results of a chunk atomically."""
        variables = {n: v.astype(numpy_dtype(v.dtype)) for n, v in variables.items()}
        about = {"identity": identity(plan, chunk), "checksum": _checksum(variables)}
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:  # readable with np.load
            for name, values in variables.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, values, allow_pickle=False)
            archive.comment = json.dumps(about).encode()
        try:
            _write(self._file(chunk), content.getvalue())
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
                content = self._file(chunk).read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._cannot("read", error) from error
            try:
                variables = _parsed(content, identity(plan, chunk))
            except Exception as error:  # a corrupt file can raise any type
                warnings.warn(
                    f"{self._file(chunk)} is damaged ({error}). Its "
                    f"{len(chunk.trials)} trials count as not run.",
                    RuntimeWarning,
                    stacklevel=3,
                )
            else:
                yield chunk, variables

    def refused(self, reasons: list[str]) -> ValueError:
        """Returns the error for a sweep that does not match the store."""
        return ValueError(
            f"the store {str(self.folder)!r} contains another sweep: "
            f"{'; '.join(reasons)}. Use another store, or repeat the original call. "
            f"Axis values can be added."
        )

    def _is_full(self, plan: Plan) -> bool:
        return not plan.settings.rungs and all(map(self.holds, plan.chunks()))

    def _text(self) -> str | None:
        try:
            return self._spec.read_text()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._cannot("read", error) from error

    def _file(self, chunk: Chunk) -> Path:
        return self.folder / "chunks" / f"{chunk.number:06d}.npz"

    def _cannot(self, verb: str, error: OSError) -> OSError:
        return OSError(
            error.errno,
            f"cannot {verb} the store {str(self.folder)!r} ({error.strerror}). Its "
            f"contents are unchanged, and the same call resumes from there",
        )


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """Returns the dtype itself, or float32 for float types that NumPy lacks."""
    if jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).kind != "f":
        return np.dtype(np.float32)
    known: np.dtype[Any] = np.dtype(dtype)
    return known


def _parsed(content: bytes, wanted: str) -> dict[str, _Array]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        about = json.loads(archive.comment)
        variables = {}
        for member in archive.namelist():
            with archive.open(member) as file:
                values = np.lib.format.read_array(file, allow_pickle=False)
            variables[member.removesuffix(".npy")] = values
    if about["checksum"] != _checksum(variables):
        raise RuntimeError("wrong checksum")
    if about["identity"] != wanted:
        raise RuntimeError("it belongs to another sweep")
    return variables


def _checksum(variables: Mapping[str, _Array]) -> str:
    found = hashlib.sha256()
    for name, values in sorted(variables.items()):
        found.update(f"{name} {values.dtype.str} {values.shape}".encode())
        found.update(values.tobytes())
    return found.hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Writes a file atomically, so that other processes never see a partial file."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
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
