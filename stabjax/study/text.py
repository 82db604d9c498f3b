"""Numbers out of measurements, and the words they are printed in."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from stabjax.study.measure import Interval


def values_of(
    measures: xr.Dataset, name: str, remedy: str, **others: str
) -> xr.DataArray:
    """A remedy's number, for each seed if it has one for each."""
    return measures[name].sel({"remedy": remedy, **others})


def paired(
    measures: xr.Dataset, name: str, remedy: str
) -> tuple[xr.DataArray, xr.DataArray]:
    """A number of a remedy and of neither, seed by seed."""
    return values_of(measures, name, remedy), values_of(measures, name, "neither")


def value_of(measures: xr.Dataset, name: str, remedy: str, **others: str) -> float:
    """A remedy's number that the seeds share."""
    return float(values_of(measures, name, remedy, **others))


def median_of(measures: xr.Dataset, name: str, remedy: str) -> float:
    """The median over the seeds."""
    return float(np.median(values_of(measures, name, remedy)))


def mean_of(measured: Sequence[xr.Dataset], name: str, remedy: str) -> float:
    """The mean over the problems of the mean over the seeds."""
    return float(np.mean([values_of(m, name, remedy).mean() for m in measured]))


def as_percent(share: float, digits: int = 0) -> str:
    """A share, or that it has no value because the runs diverged."""
    return f"{100 * share:.{digits}f} %" if np.isfinite(share) else "diverged"


def as_interval(found: Interval) -> str:
    """A share and its interval."""
    low, high = (f"{100 * end:.0f}" for end in (found.low, found.high))
    return f"{as_percent(found.value)} [{low}, {high}]"


def as_points(found: Interval) -> str:
    """A difference of shares in percentage points, and its interval."""
    value, low, high = (f"{round(100 * number):+d}" for number in found)
    return f"{value} [{low}, {high}]"


def as_times(found: Interval | None) -> str:
    """A ratio of steps and its interval; infinite is never, and None no ratio."""
    if found is None:
        return ""
    value, low, high = (f"{r:.2f}" if np.isfinite(r) else "never" for r in found)
    return value if value == low == high else f"{value} [{low}, {high}]"


def as_loss(loss: float) -> str:
    """A loss or a norm to two digits."""
    if not np.isfinite(loss):
        return "diverged"
    return f"{loss:.0f}" if 100 <= loss < 1e4 else as_number(loss)


def as_number(number: float) -> str:
    """A rate or a threshold to two digits, in as few characters: 100, not 1e+02."""
    return f"{float(f'{number:.2g}'):g}"


def as_steps(steps: float) -> str:
    """A number of steps, which is infinite if the target was not reached."""
    return f"{steps:.0f}" if np.isfinite(steps) else "never"


def count_of(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def listed(items: Iterable[str]) -> str:
    """Items as a sentence has them."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
