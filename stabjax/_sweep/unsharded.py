"""Copies of functions that read no arrays on a mesh.

The type of an array created under `jax.set_mesh` contains the mesh. A function that
reads such an array can be traced only for that mesh, but the programs of a sweep run on
single devices or on another mesh.
"""

import functools
import types
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._sweep.compiler import no_mesh
from stabjax._sweep.contents import is_library, is_standard, names_in

_T = TypeVar("_T")


def unsharded(value: _T) -> _T:
    """Copies a value, replacing all arrays on a mesh by unsharded copies.

    Follows the same references as `contents`. Returns the value itself if there are no
    arrays on a mesh. The original is not modified.
    """
    copy = _Copy()
    with no_mesh():
        found: _T = copy.of(value)
    return found if copy.arrays else value


class _Copy:
    """Copies a graph of objects and visits each object once."""

    def __init__(self) -> None:
        self.arrays = 0  # number of arrays on a mesh
        self._known: dict[int, tuple[object, Any]] = {}  # id -> original, copy

    def of(self, value: Any) -> Any:
        """Returns a copy, or the value itself if no copy is needed."""
        if id(value) not in self._known:
            self._known[id(value)] = value, value  # breaks reference cycles
            self._known[id(value)] = value, self._made(value)
        return self._known[id(value)][1]

    def _made(self, value: Any) -> Any:
        if isinstance(value, jax.Array):
            return self._array(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return types.MethodType(self.of(value.__func__), self.of(value.__self__))
        if isinstance(value, functools.partial):
            keywords = {name: self.of(v) for name, v in value.keywords.items()}
            return functools.partial(
                self.of(value.func), *map(self.of, value.args), **keywords
            )
        if isinstance(value, dict):
            parts = {name: self.of(part) for name, part in value.items()}
            return parts if _differ(parts.values(), value.values()) else value
        if isinstance(value, tuple | list):
            items = [*map(self.of, value)]
            if not _differ(items, value):
                return value
            make: Callable[..., Any] = type(value)
            return make(*items) if hasattr(value, "_fields") else make(items)
        if isinstance(value, type | types.ModuleType):
            return value
        if hasattr(value, "__wrapped__"):  # functions wrapped by jax.jit and similar
            before = self.arrays
            inner = self.of(value.__wrapped__)
            return inner if self.arrays > before else value
        return self._object(value)

    def _array(self, value: jax.Array) -> jax.Array:
        if isinstance(value, jax.core.Tracer) or value.is_deleted():
            return value
        on_mesh = isinstance(value.sharding, jax.sharding.NamedSharding)
        if not on_mesh or not value.is_fully_addressable:
            return value
        self.arrays += 1
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            data = jnp.asarray(np.asarray(jax.random.key_data(value)))
            key: jax.Array = jax.random.wrap_key_data(
                data, impl=jax.random.key_impl(value)
            )
            return key
        return jnp.asarray(np.asarray(value))

    def _function(self, value: types.FunctionType) -> types.FunctionType:
        cells = [types.CellType() for _ in value.__closure__ or ()]
        space = value.__globals__
        if not is_library(value.__module__):
            space = dict(space)
        new = types.FunctionType(
            value.__code__, space, value.__name__, None, tuple(cells) or None
        )
        new.__dict__.update(value.__dict__)
        new.__module__, new.__qualname__ = value.__module__, value.__qualname__
        self._known[id(value)] = value, new
        new.__defaults__ = self.of(value.__defaults__)
        new.__kwdefaults__ = self.of(value.__kwdefaults__)
        for cell, old in zip(cells, value.__closure__ or (), strict=True):
            try:
                cell.cell_contents = self.of(old.cell_contents)
            except ValueError:  # the variable is not assigned yet
                continue
        if space is not value.__globals__:
            for name in names_in(value.__code__) & space.keys():
                space[name] = self.of(space[name])
        return new

    def _object(self, value: Any) -> Any:
        held = getattr(value, "__dict__", None)
        if not held or is_standard(type(value).__module__):
            return value
        parts = {name: self.of(part) for name, part in held.items()}
        if not _differ(parts.values(), held.values()):
            return value
        try:
            new = object.__new__(type(value))
            vars(new).update(parts)
        except TypeError:  # a type of an extension module
            return value
        return new


def _differ(new: Any, old: Any) -> bool:
    return any(a is not b for a, b in zip(new, old, strict=True))
