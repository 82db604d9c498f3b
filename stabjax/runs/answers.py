"""What every answer can do: print, and turn into plain data."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from stabjax._intervals import student_half_width


class Estimate(NamedTuple):
    """An estimate with its confidence interval.

    Attributes:
      value: the estimate.
      low: lower bound; -inf, or 0 for a positive quantity, if the runs do not determine
        it, and NaN if there is no interval, as with a single seed.
      high: upper bound, likewise.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Formats the estimate, with its interval in brackets."""
        if np.isnan(self.low):
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


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


def student(values: np.ndarray, confidence: float, sign: float = 1.0) -> Estimate:
    """Returns the mean over the seeds, times a sign, with Student's interval."""
    mean, half = (
        sign * float(values.mean()),
        float(student_half_width(values, confidence)),
    )
    return Estimate(mean, mean - half, mean + half)


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


def basis(seeds: int, confidence: float, at: Mapping[str, object]) -> str:
    """Returns what an estimate rests on, in brackets."""
    parts = [counted(seeds, "seed")]
    if seeds > 1:
        parts.insert(0, f"{percent(confidence)} interval")
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
