"""Hashes of the values that functions read in addition to their arguments.

These values become constants of the traced program. If a notebook changes one of them
and calls the sweep again, the cached program must not be reused.
"""

import contextlib
import dataclasses
import functools
import hashlib
import pickle
import random
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterator, Mapping, Set
from typing import Any, NamedTuple

import jax
import numpy as np

_MOST = 100_000  # objects to hash; any others are compared by identity
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), slice)
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
_LIBRARIES = tuple(
    {
        sysconfig.get_path(name)
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
)
# JAX arrays are immutable, so their hashes can be cached.
_digests: dict[int, bytes] = {}


class Contents(NamedTuple):
    """A key of the values that functions read."""

    digest: str
    codes: tuple[types.CodeType, ...]
    generators: tuple[bytes, ...]  # states of random generators


def contents(functions: list[object]) -> Contents:
    """Returns a key that changes if any value read by the functions changes.

    Follows closures, default arguments, attributes, the arguments of partial functions
    and, for functions outside installed packages, global names. Arrays are compared by
    content, and generators of random numbers by state. Other objects of the Python
    standard library and of JAX are compared by identity.
    """
    walk = _Walk()
    for function in functions:
        walk.follow(function)
    return Contents(walk.digest.hexdigest(), tuple(walk.codes), tuple(walk.generators))


class _Walk:
    """Hashes a graph of objects and visits each object once."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b()
        self.codes: list[types.CodeType] = []
        self.generators: list[bytes] = []
        self._known: dict[int, int] = {}  # object id -> visit number
        self._kept: list[object] = []  # references that prevent the reuse of ids

    def follow(self, value: object) -> None:
        """Hashes a value and all values that it refers to."""
        waiting = [value]
        while waiting:
            value = waiting.pop()
            self.digest.update(f"{type(value).__qualname__};".encode())
            if isinstance(value, _PLAIN):
                self.digest.update(f"{value!r};".encode())
                continue
            if (met := self._known.get(id(value))) is not None:
                self.digest.update(f"{met};".encode())
                continue
            self._known[id(value)] = len(self._known)
            self._kept.append(value)
            if isinstance(value, _GENERATORS):
                self.generators.append(pickle.dumps(value))
                continue
            if (array := _array_digest(value)) is not None:
                self.digest.update(array)
                continue
            if isinstance(value, types.FunctionType):
                self.codes.append(value.__code__)
            parts: list[object] = []
            if len(self._known) < _MOST:
                with contextlib.suppress(Exception):  # a user's method raises
                    parts = [*_parts(value)]
            if not parts:
                self.digest.update(f"{_length_or_id(value)};".encode())
            waiting += parts


def _length_or_id(value: object) -> int:
    empty = isinstance(value, (tuple, list, Mapping, Set, types.FunctionType))
    return 0 if empty else id(value)


def _parts(value: Any) -> Iterator[object]:
    """Yields the values an object refers to; none if it is compared by identity."""
    if isinstance(value, types.FunctionType):
        yield from (value.__defaults__ or (), value.__kwdefaults__ or {})
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # the variable is not assigned yet
                continue
        if not is_library(value.__module__):
            yield from _globals(value)
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, types.BuiltinMethodType):  # such as a dict's get
        yield from (value.__name__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, Mapping):
        for item in value.items():
            yield from item
    elif isinstance(value, (tuple, list)):
        yield from value
    elif isinstance(value, Set):
        yield from sorted(value, key=repr)
    elif isinstance(value, (type, types.ModuleType)):
        return
    elif hasattr(value, "__wrapped__"):  # functions wrapped by jax.jit and similar
        yield value.__wrapped__
    elif (
        isinstance(value, types.SimpleNamespace)
        or dataclasses.is_dataclass(value)
        or not is_standard(type(value).__module__)
    ):
        yield from (getattr(value, "__dict__", None) or {}).items()


def _globals(function: types.FunctionType) -> Iterator[object]:
    """Yields the global values that a function reads, in a fixed order."""
    names = sorted(names_in(function.__code__))
    for name in names:
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        yield from (name, value)
        if isinstance(value, types.ModuleType) and not is_library(value.__name__):
            yield from (vars(value)[name] for name in names if name in vars(value))


def names_in(code: types.CodeType) -> set[str]:
    """Returns all global and attribute names in code and its nested functions."""
    found = {*code.co_names}
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            found |= names_in(part)
    return found


def _array_digest(value: Any) -> bytes | None:
    """Hashes the contents of an array; returns None for other values.

    Arrays that are not fully addressable by this process also give None.
    """
    if isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, jax.Array):
        if value.is_deleted() or not value.is_fully_addressable:
            return None
        if id(value) not in _digests:
            data = value
            if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
                data = jax.random.key_data(value)
            _digests[id(value)] = _hash(np.asarray(data))
            weakref.finalize(value, _digests.pop, id(value), None)
        return _digests[id(value)]
    if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
        return _hash(np.asarray(value))
    return None


def _hash(array: np.ndarray[Any, Any]) -> bytes:
    found = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode())
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.digest()


@functools.cache
def is_standard(module: str) -> bool:
    """Returns whether a module belongs to the Python standard library or to JAX."""
    return module.partition(".")[0] in {*sys.stdlib_module_names, "jax", "jaxlib"}


@functools.cache
def is_library(module: str | None) -> bool:
    """Returns whether a module is an installed package with constant globals."""
    name = str(module)
    if is_standard(name) or name.partition(".")[0] == "stabjax":
        return name != "__main__"
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and file.startswith(_LIBRARIES)
