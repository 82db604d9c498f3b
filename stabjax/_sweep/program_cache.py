"""A cache of traced and compiled programs, tied to the lifetime of their functions."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from stabjax._sweep.compiler import jax_config
from stabjax._sweep.contents import Contents, contents

_T = TypeVar("_T")

remembered: dict[Hashable, Any] = {}


class Memory:
    """A cache of programs, keyed by the values that their functions read.

    The values are hashed only once, so an instance must not outlive a call to `sweep`.
    """

    def __init__(self, functions: list[object]) -> None:
        self._functions = functions
        self._contents: Contents | None = None

    def generators(self) -> tuple[bytes, ...]:
        """Returns the states of the random generators that the functions refer to."""
        return self._found().generators

    def recall(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Returns the cached result for a key, calling `make` on the first request.

        The result must not refer to the functions, which would then never be freed.
        Traced shapes and compiled programs are safe, but jitted functions are not.
        """
        try:
            found = self._key(key)
            known: _T | None = remembered.get(found)
            references = [weakref.ref(function) for function in self._functions]
        except TypeError:  # an unhashable static value or no weakref support
            return make()
        if known is not None:
            return known
        made = make()
        # Tracing can change a value that the function reads, such as a call counter.
        self._contents = None
        for name in {found, self._key(key)}:
            remembered[name] = made
            for reference in references:
                weakref.finalize(reference(), remembered.pop, name, None)
        return made

    def _key(self, key: Hashable) -> Hashable:
        owners = tuple(map(id, self._functions))
        return owners, self._found(), key, tuple(jax_config().values())

    def _found(self) -> Contents:
        found = self._contents  # another thread may reset it in the meantime
        if found is None:
            found = self._contents = contents(self._functions)
        return found
