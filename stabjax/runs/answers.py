"""What every answer can do: print, plot, and turn into plain data."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from stabjax._extras import load

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Answer:
    """Base of the answers, which are frozen dataclasses."""

    caveats: tuple[str, ...]

    def __repr__(self) -> str:
        return str(self)

    def to_dict(self) -> dict[str, Any]:
        """Returns the answer as dictionaries, lists, text and numbers.

        Numbers may be infinite or NaN.
        """
        return {
            field.name: _plain(getattr(self, field.name))
            for field in fields(self)  # type: ignore[arg-type]  # of a dataclass
        }

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draws the answer into the axes, or into a new figure, and returns the axes."""
        pictures = load("stabjax.plot.answers", needed_by="plot")
        drawn: Axes = getattr(pictures, type(self).__name__.lower())(self.to_dict(), ax)
        return drawn


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
    """Returns a confidence as `95 %`."""
    return f"{100 * confidence:.3g} %"


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


def is_finite(*numbers: float) -> bool:
    """Returns whether all numbers are finite."""
    return all(map(math.isfinite, numbers))
