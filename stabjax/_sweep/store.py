"""A folder that keeps what a sweep has done: `spec.json`, and a file for each chunk."""

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

import numpy as np
import xarray as xr

from stabjax._sweep.chunks import Chunk, chunked, seeds_of
from stabjax._sweep.dataset import labelled, numpy_dtype, unfilled
from stabjax._sweep.space import Space
from stabjax._sweep.spec import (
    Layout,
    Spec,
    alone,
    differences,
    extended,
    from_text,
    identity,
    newer,
    to_text,
)

_Array = np.ndarray[Any, Any]


def load(store: str | os.PathLike[str]) -> xr.Dataset:
    """Opens what a sweep has stored so far, at any moment, as the sweep returns it.

    Nothing is trained, and none of the functions that the sweep was called with is
    needed. Trials that have not run have the status -1, and NaN for their losses.

    Args:
      store: the folder that `sweep` was given as its `store`.

    Returns:
      The dataset of the sweep, as `sweep` describes it, with what is in the store.

    Raises:
      FileNotFoundError: if there is no store of that name.
      ValueError: if the store is damaged, or written by a newer version.

    Example:
      >>> import optax, stabjax, tempfile
      >>> problem, space = stabjax.problems.quadratic(), stabjax.grid(rate=[0.1, 1.1])
      >>> def make_optimizer(rate):
      ...     return optax.sgd(rate)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = stabjax.sweep(problem, make_optimizer, space, steps=99, store=folder)
      ...     runs = stabjax.runs.load(folder)
      >>> print(runs.status.values)
      [0 1]
    """
    folder = Path(store)
    spec = read_spec(folder)
    if spec is None:
        raise FileNotFoundError(f"there is no store at {str(folder)!r}: no spec.json.")
    space, sizes, _ = spec.layout
    rows = space.rows()
    chunks = chunked(space, seeds_of(space, rows), sizes, spec.groups)
    results = unfilled([group.variables for group in spec.groups], len(space))
    for chunk, variables in stored(folder, spec, chunks, rows):
        fill(results, chunk, variables)
    return labelled(spec, results, {})


def fill(results: dict[str, _Array], chunk: Chunk, variables: dict[str, Any]) -> None:
    """Puts what the trials of a chunk gave where it belongs."""
    for name, values in variables.items():
        results[name][chunk.trials] = values


def read_spec(folder: Path) -> Spec | None:
    """The spec of a store, or None where there is no store yet."""
    try:
        text = (folder / "spec.json").read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot("read", folder, error) from error
    try:
        version = newer(text)
        spec = None if version else from_text(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"spec.json of the store {str(folder)!r} is damaged ({error}): put it "
            f"back, or name another store."
        ) from error
    if version:
        raise ValueError(
            f"the store {str(folder)!r} was written by stabjax {version}, which writes "
            f"what this version cannot read: upgrade stabjax, or name another store."
        )
    return spec


def layout_in(folder: Path | None, held: Spec | None, space: Space) -> Layout:
    """The order of a space's values in a store that may hold a part of them."""
    if held is None:
        return alone(space)
    try:
        return extended(space, held.layout)
    except ValueError as error:
        raise refused(folder, [str(error)]) from error


def check_same(folder: Path, held: Spec | None, wanted: Spec) -> None:
    """Raises if a store holds a sweep of another kind."""
    if held is not None and (found := list(differences(held, wanted))):
        raise refused(folder, found)


def refused(folder: Path | None, reasons: list[str]) -> ValueError:
    """The error that says why this sweep is not the one in a store."""
    return ValueError(
        f"the store {str(folder)!r} holds another sweep: {'; '.join(reasons)}. Name "
        f"another store, or call the sweep as it was called (values may be added)."
    )


def write_spec(folder: Path, spec: Spec) -> None:
    """Makes a store, or extends it; and finds out whether it can be written to."""
    try:
        (folder / "chunks").mkdir(parents=True, exist_ok=True)
        _write(folder / "spec.json", to_text(spec).encode())
    except OSError as error:
        raise _cannot("write to", folder, error) from error


def write_chunk(
    folder: Path, spec: Spec, chunk: Chunk, rows: Mapping[str, _Array], variables: Any
) -> None:
    """Keeps what a chunk gave: all of it or nothing, whatever happens meanwhile."""
    variables = {n: v.astype(numpy_dtype(v.dtype)) for n, v in variables.items()}
    about = {
        "identity": identity(spec, chunk, rows),
        "checksum": _checksum(variables),
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:  # what np.load opens as an .npz
        for name, values in variables.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, values, allow_pickle=False)
        archive.comment = json.dumps(about).encode()
    try:
        _write(_file(folder, chunk), content.getvalue())
    except OSError as error:
        raise _cannot("write to", folder, error) from error


def holds(folder: Path, chunk: Chunk) -> bool:
    """Whether there is a file of a chunk, damaged or not."""
    return _file(folder, chunk).exists()


def stored(
    folder: Path, spec: Spec, chunks: Iterable[Chunk], rows: Mapping[str, _Array]
) -> Iterator[tuple[Chunk, dict[str, _Array]]]:
    """Those of the chunks that a store holds; warns of each that is damaged."""
    for chunk in chunks:
        try:
            content = _file(folder, chunk).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _cannot("read", folder, error) from error
        try:
            variables = _parsed(content, identity(spec, chunk, rows))
        except Exception as error:  # a flipped bit may raise anything
            warnings.warn(
                f"{_file(folder, chunk)} is damaged ({error}): its "
                f"{len(chunk.trials)} trials count as not run.",
                RuntimeWarning,
                stacklevel=3,
            )
        else:
            yield chunk, variables


def _parsed(content: bytes, wanted: str) -> dict[str, _Array]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        about = json.loads(archive.comment)
        variables = {}
        for member in archive.namelist():
            with archive.open(member) as file:
                values = np.lib.format.read_array(file, allow_pickle=False)
            variables[member.removesuffix(".npy")] = values
    if about["checksum"] != _checksum(variables):
        raise ValueError("its checksum is wrong")
    if about["identity"] != wanted:
        raise ValueError("it is of another sweep")
    return variables


def _checksum(variables: Mapping[str, _Array]) -> str:
    found = hashlib.sha256()
    for name, values in sorted(variables.items()):
        found.update(f"{name} {values.dtype.str} {values.shape}".encode())
        found.update(values.tobytes())
    return found.hexdigest()


def _file(folder: Path, chunk: Chunk) -> Path:
    return folder / "chunks" / f"{chunk.number:06d}.npz"


def _write(path: Path, content: bytes) -> None:
    """A file appears whole or not at all, also for other processes."""
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


def _cannot(verb: str, folder: Path, error: OSError) -> OSError:
    return OSError(
        error.errno,
        f"cannot {verb} the store {str(folder)!r} ({error.strerror}): what it holds is "
        f"untouched, and the same call resumes from there",
    )
