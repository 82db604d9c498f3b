"""Parsing numbers, words, axes and ranges on the command line."""

import argparse
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

import stabjax

if TYPE_CHECKING:
    from stabjax import Space

Value = int | float | bool | str | None

_WORDS: dict[str, Value] = {"none": None, "true": True, "false": False}
# "none" is parsed as an infinite threshold, which keeps the axis numeric. The whole
# axis then shares one compilation.
_NONE = {"max_norm": np.inf}
_FORMS = (
    "log:LOW:HIGH:N, lin:LOW:HIGH:N, FIRST:END, or comma-separated values, optionally "
    "with the prefix static:"
)


def parse_value(text: str) -> Value:
    """Parses an int, float, boolean or None, or returns the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return _WORDS.get(text.lower(), text)


def parse_pair(text: str, form: str = "NAME=VALUE") -> tuple[str, str]:
    """Splits `NAME=VALUE` into its two parts."""
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise ValueError(f"{form} must be a name, = and a value, got {text!r}.")
    return name, value


def parse_space(texts: Iterable[str]) -> "Space":
    """Parses axes such as `rate=log:1e-3:1:16`, `kind=a,b` and `seed=0:8` to a grid."""
    axes: dict[str, Iterable[object]] = {}
    for text in texts:
        name, values = parse_pair(text, "NAME=VALUES")
        if name in axes:
            raise ValueError(f"axis {name!r} must be given once, got {text!r} again.")
        axes[name] = _parse_axis(name, values)
    return stabjax.grid(**axes)


def _parse_axis(name: str, text: str) -> Iterable[object]:
    if spaced := re.fullmatch(r"(log|lin):([^:,]+):([^:,]+):(\d+)", text):
        ends = [parse_value(end) for end in spaced.group(2, 3)]
        low, high = (float(end) for end in ends if isinstance(end, int | float))
        if spaced[1] == "lin":
            return np.linspace(low, high, int(spaced[4]))
        if low > 0 and high > 0:
            return np.geomspace(low, high, int(spaced[4]))
    elif span := re.fullmatch(r"(\d+):(\d+)", text):
        return range(int(span[1]), int(span[2]))
    words = text.removeprefix("static:").split(",")
    if ":" in "".join(words) or "" in words:
        raise ValueError(f"axis {name!r} must be {_FORMS}, got {text!r}.")
    values = [parse_value(word) for word in words]
    if text.startswith("static:"):
        return stabjax.static(values)
    values = [_NONE.get(name) if value is None else value for value in values]
    numbers = [type(value) in (int, float) for value in values]
    return values if all(numbers) or not any(numbers) else stabjax.static(values)


def parse_range(text: str) -> tuple[float, float]:
    """Parses the two ends of `LOW:HIGH`."""
    try:
        low, high = map(float, text.split(":"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be LOW:HIGH, got {text!r}.") from error
    return low, high
