"""What is traced or compiled once, remembered while its functions live."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from stabjax._sweep.compiler import jax_config
from stabjax._sweep.contents import contents

_T = TypeVar("_T")

remembered: dict[Hashable, Any] = {}


class Memory:
    """What was made of some functions, for as long as they live and hold the same.

    What they hold is looked at once: a memory is for one call of a sweep.
    """

    def __init__(self, functions: list[object]) -> None:
        self._functions = functions
        self._contents: Hashable = None

    def recall(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Returns what `make` gives, made once.

        It must not refer to the functions, or they live for ever: traced shapes and
        compiled programs do not, a jitted function would.
        """
        try:
            found = self._key(key)
            known: _T | None = remembered.get(found)
            references = [weakref.ref(function) for function in self._functions]
        except TypeError:  # an unhashable static value, or an owner that dies unseen
            return make()
        if known is not None:
            return known
        made = make()
        # Tracing may itself change what a function holds, such as a count of calls.
        self._contents = None
        for name in {found, self._key(key)}:
            remembered[name] = made
            for reference in references:
                weakref.finalize(reference(), remembered.pop, name, None)
        return made

    def _key(self, key: Hashable) -> Hashable:
        if self._contents is None:
            self._contents = contents(self._functions)
        owners = tuple(map(id, self._functions))
        return owners, self._contents, key, tuple(jax_config().values())
