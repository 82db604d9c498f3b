"""Traced and compiled programs, kept as long as their functions live."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from stabjax._sweep.compiler import jax_config
from stabjax._sweep.contents import contents

_T = TypeVar("_T")

remembered: dict[Hashable, Any] = {}


class Memory:
    """The programs of some functions, as long as the values they read stay the same.

    These values are read once, so a memory is for one call of a sweep.
    """

    def __init__(self, functions: list[object]) -> None:
        self._functions = functions
        self._contents: Hashable = None

    def recall(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Returns the result of `make`, which is called once for each key.

        The result must not refer to the functions, or they are never freed. Traced
        shapes and compiled programs do not, jitted functions do.
        """
        try:
            found = self._key(key)
            known: _T | None = remembered.get(found)
            references = [weakref.ref(function) for function in self._functions]
        except TypeError:  # an unhashable static value, or no weak reference
            return make()
        if known is not None:
            return known
        made = make()
        # Tracing may change what a function reads, such as a count of its calls.
        self._contents = None
        for name in {found, self._key(key)}:
            remembered[name] = made
            for reference in references:
                weakref.finalize(reference(), remembered.pop, name, None)
        return made

    def _key(self, key: Hashable) -> Hashable:
        found = self._contents  # which another thread may drop meanwhile
        if found is None:
            found = self._contents = contents(self._functions)
        owners = tuple(map(id, self._functions))
        return owners, found, key, tuple(jax_config().values())
