"""What is traced or compiled once, remembered while its functions live."""

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from stabjax._sweep.compiler import jax_config

_T = TypeVar("_T")

remembered: dict[Hashable, Any] = {}


def remember(owners: Sequence[object], key: Hashable, make: Callable[[], _T]) -> _T:
    """Returns what `make` gives, made once for as long as all owners live.

    What is kept must not refer to its owners: traced shapes and compiled programs do
    not, a jitted function would.
    """
    key = (tuple(map(id, owners)), key, tuple(jax_config().values()))
    try:
        known: _T | None = remembered.get(key)
        references = [weakref.ref(owner) for owner in owners]
    except TypeError:  # an unhashable static value, or an owner that dies unseen
        return make()
    if known is not None:
        return known
    made = remembered[key] = make()
    for reference in references:
        weakref.finalize(reference(), remembered.pop, key, None)
    return made
