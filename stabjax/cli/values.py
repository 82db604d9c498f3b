"""Parsing numbers, words, axes and ranges on the command line."""

import argparse
import inspect
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

import stabjax

if TYPE_CHECKING:
    from stabjax import Space

Value: TypeAlias = int | float | bool | str | None
# An array, a range or a list, or a tuple of static values.
Values: TypeAlias = Sequence[Value] | np.ndarray[Any, Any]

_WORDS: dict[str, Value] = {"none": None, "true": True, "false": False}
_FORMS = (
    "log:LOW:HIGH:N, lin:LOW:HIGH:N, FIRST:END, or comma-separated values, optionally "
    "with the prefix static:"
)
_MOST = 10**8  # points of a grid, whose losses take 0.4 GB
_SPACED = re.compile(r"(log|lin):([^:,]+):([^:,]+):(\d+)")
_SPAN = re.compile(r"(\d+):(\d+)")


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


def parse_axes(texts: Iterable[str]) -> dict[str, Values]:
    """Parses axes such as `rate=log:1e-3:1:16`, `kind=a,b` and `seed=0:8`.

    Raises:
      ValueError: If a text is not an axis, an axis or a value occurs twice, or the grid
        is too large.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, values = parse_pair(text, "NAME=VALUES")
        if name in found:
            raise ValueError(f"axis {name!r} must be given once, got {text!r} as well.")
        found[name] = values
    sizes = {name: _size(values) for name, values in found.items()}
    if (points := math.prod(sizes.values())) > _MOST:
        largest = max(sizes, key=lambda name: sizes[name])
        raise ValueError(
            f"the grid must have at most {_MOST:,} points, got {points:,}. Give axis "
            f"{largest!r} fewer than {sizes[largest]:,} values."
        )
    return {name: _parse_axis(name, values) for name, values in found.items()}


def space_of(
    axes: Mapping[str, Values],
    known: Mapping[str, inspect.Parameter],
    thresholds: Collection[str],
) -> "Space":
    """Returns the grid of the axes.

    Arguments with an integer type determine a shape, so their axes are static. "none"
    is parsed as an infinite threshold, which keeps the axis numeric. The whole axis
    then shares one compilation.
    """
    found: dict[str, Any] = {}
    for name, given in axes.items():
        values = given
        if name in thresholds and isinstance(given, list):
            values = [np.inf if value is None else value for value in given]
        fixes_a_shape = known[name].annotation in (int, int | None)
        static = fixes_a_shape or isinstance(values, tuple) or _is_mixed(values)
        found[name] = stabjax.static(values) if static else values
    return stabjax.grid(**found)


def check_words(
    axes: Mapping[str, Values],
    known: Mapping[str, inspect.Parameter],
    thresholds: Collection[str],
) -> None:
    """Checks the words in axes of numbers or booleans.

    Raises:
      ValueError: If an axis contains a word that is not allowed.
    """
    for name, values in axes.items():
        parameter = known[name]
        default, kind = parameter.default, str(parameter.annotation)
        is_word = isinstance(default, str) or "Literal" in kind or "str" in kind
        is_flag = isinstance(default, bool)
        if is_word or not isinstance(values, list | tuple):
            continue
        for value in values:
            if value is None and (default is None or name in thresholds):
                continue
            if isinstance(value, bool) if is_flag else type(value) in (int, float):
                continue
            allowed = "true or false" if is_flag else "numbers"
            shown = "none" if value is None else str(value)
            raise ValueError(f"axis {name!r} must contain {allowed}, got {shown!r}.")


def parse_range(text: str) -> tuple[float, float]:
    """Parses the two ends of `LOW:HIGH`."""
    try:
        low, high = map(float, text.split(":"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be LOW:HIGH, got {text!r}.") from error
    return low, high


def _size(text: str) -> int:
    """Returns the number of values of an axis without creating them."""
    if spaced := _SPACED.fullmatch(text):
        return int(spaced[4])
    if span := _SPAN.fullmatch(text):
        return max(0, int(span[2]) - int(span[1]))
    return text.count(",") + 1


def _parse_axis(name: str, text: str) -> Values:
    if spaced := _SPACED.fullmatch(text):
        return _spaced(name, spaced)
    if span := _SPAN.fullmatch(text):
        first, end = int(span[1]), int(span[2])
        if first >= end:
            raise ValueError(
                f"axis {name!r} must end after its first value, got {text!r}. The end "
                f"is excluded."
            )
        return range(first, end)
    words = text.removeprefix("static:").split(",")
    if ":" in "".join(words) or "" in words:
        raise ValueError(f"axis {name!r} must be {_FORMS}, got {text!r}.")
    values = [parse_value(word) for word in words]
    kinds = [(type(value), value) for value in values]  # because True == 1
    for kind, value in zip(kinds, values, strict=True):
        if kinds.count(kind) > 1 and len(values) < 1000:
            raise ValueError(
                f"axis {name!r} must contain {value!r} once, got {text!r}."
            )
    return tuple(values) if text.startswith("static:") else values


def _spaced(name: str, match: re.Match[str]) -> Values:
    kind, size = match[1], int(match[4])
    try:
        low, high = (float(end) for end in match.group(2, 3))
    except ValueError:
        low = high = np.nan
    if not np.isfinite([low, high]).all() or size < 1:
        raise ValueError(
            f"axis {name!r} must be {kind}:LOW:HIGH:N with two finite numbers and "
            f"N >= 1, got {match[0]!r}."
        )
    if kind == "lin":
        return np.linspace(low, high, size)
    if min(low, high) <= 0:
        raise ValueError(
            f"axis {name!r} must have LOW and HIGH > 0 for log:, got {match[0]!r}. "
            f"Use lin:LOW:HIGH:N."
        )
    return np.geomspace(low, high, size)


def _is_mixed(values: Values) -> bool:
    """Returns whether a list has numbers and other values."""
    if not isinstance(values, list):
        return False
    return len({type(value) in (int, float) for value in values}) > 1
