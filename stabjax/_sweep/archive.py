"""Converting the results of a chunk to an .npz file and back."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_HEADER = 512  # bytes per variable, excluding its values and name; 300 are used
_COMMENT = 4096  # bytes for the metadata of the archive; 400 are used

_Array = np.ndarray[Any, Any]


class Archive(NamedTuple):
    """The results of a chunk, and the metadata in its file."""

    variables: dict[str, _Array]
    about: dict[str, Any]


class Promise(NamedTuple):
    """The expected contents of a file: a value of each variable for each trial."""

    trials: int
    variables: Mapping[str, jax.ShapeDtypeStruct]

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a variable."""
        return (self.trials, *self.variables[name].shape)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Returns the type of a variable."""
        return numpy_dtype(self.variables[name].dtype)

    @property
    def most(self) -> int:
        """The maximum size of the file in bytes."""
        each = self.trials * bytes_of_a_trial(self.variables)
        return each + _COMMENT + sum(_HEADER + 4 * len(n) for n in self.variables)


def packed(variables: Mapping[str, _Array], about: Mapping[str, Any]) -> bytes:
    """Returns the content of a file that `np.load` can also open."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, values in variables.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, values, allow_pickle=False)
        checked = {**about, "checksum": _checksum(variables)}
        archive.comment = json.dumps(checked).encode()
    return content.getvalue()


def unpacked(content: bytes, promise: Promise) -> Archive:
    """Returns the results in a file.

    Memory for a variable is allocated only if its header matches the promise, and
    nothing is unpickled. Any exception means that the file is damaged.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        about = json.loads(archive.comment or b"{}")
        if not {"identity", "checksum"} <= {*about}:
            raise ValueError("it has no metadata.")
        names = sorted(member.removesuffix(".npy") for member in archive.namelist())
        if names != sorted(promise.variables):
            raise ValueError("its variables differ from those of the sweep.")
        variables = {name: _read(archive, name, promise) for name in promise.variables}
    if about["checksum"] != _checksum(variables):
        raise ValueError("its checksum is wrong.")
    return Archive(variables, about)


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """Returns the type itself, or float32 for short floats that NumPy lacks."""
    if jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).kind != "f":
        return np.dtype(np.float32)
    known: np.dtype[Any] = np.dtype(dtype)
    return known


def bytes_of_a_trial(variables: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Returns the size of the variables of one trial in bytes."""
    sizes = ((v.size, numpy_dtype(v.dtype).itemsize) for v in variables.values())
    return sum(size * itemsize for size, itemsize in sizes)


def _read(archive: zipfile.ZipFile, name: str, promise: Promise) -> _Array:
    member = archive.getinfo(f"{name}.npy")
    shape, dtype = promise.shape(name), promise.dtype(name)
    size = dtype.itemsize * int(np.prod(shape, dtype=object))
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > size + _HEADER:
        raise ValueError(f"{name} is compressed or longer than expected.")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{name} has an unknown format.")
        found = np.lib.format.read_array_header_1_0(file)
        if found != (shape, False, dtype):
            raise ValueError(f"{name} has an unexpected shape or type.")
        # Reading one more byte than expected makes zipfile verify its own checksum.
        values = np.frombuffer(file.read(size + 1), dtype)
    return values.reshape(shape)


def _checksum(variables: Mapping[str, _Array]) -> str:
    found = hashlib.sha256()
    for name, values in sorted(variables.items()):
        found.update(f"{name} {values.dtype.str} {values.shape}".encode())
        found.update(values.tobytes())
    return found.hexdigest()
