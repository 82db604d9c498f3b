"""What every answer can do: print, and turn into plain data."""

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

import numpy as np


class Answer:
    """Base of the answers: frozen dataclasses that `stabjax.plot.answer` draws."""

    caveats: tuple[str, ...]

    def __repr__(self) -> str:
        """Returns the text that `print` shows."""
        return str(self)

    def to_dict(self) -> dict[str, Any]:
        """Returns the answer as dictionaries, lists, text and numbers.

        Numbers may be infinite or NaN.
        """
        return {
            field.name: _plain(getattr(self, field.name))
            for field in fields(self)  # type: ignore[arg-type]  # of a dataclass
        }


def with_caveats(lines: list[str], caveats: tuple[str, ...]) -> str:
    """Returns lines of text, and a line for each caveat."""
    return "\n".join([*lines, *(f"Caveat: {caveat}" for caveat in caveats)])


def shown(value: object) -> str:
    """Returns a value for a line of text."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def named(settings: Mapping[str, object]) -> str:
    """Returns settings as `name=value, name=value`."""
    return ", ".join(f"{name}={shown(value)}" for name, value in settings.items())


def counted(number: int, noun: str) -> str:
    """Returns a number and a noun: `1 seed`, `8 seeds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(confidence: float) -> str:
    """Returns a confidence as `95%`."""
    return f"{100 * confidence:.3g}%"


def basis(
    seeds: int,
    confidence: float | None,
    at: Mapping[str, object] = MappingProxyType({}),
    points: int = 1,
) -> str:
    """Returns what an estimate rests on, in brackets.

    Without an interval, `confidence` is None.
    """
    parts = [counted(seeds, "seed")]
    if seeds > 1 and confidence is not None:
        parts.insert(0, f"{percent(confidence)} interval")
    if points > 1:
        parts.append(f"best of {points} points")
    if at:
        parts.append(f"at {named(at)}")
    return f"({', '.join(parts)})"


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    known = value is None or isinstance(value, bool | int | float | str)
    return value if known else str(value)
