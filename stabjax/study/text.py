"""Numbers of the measures, and how the report prints them."""

from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr

from stabjax.study.measure import Interval


def values_of(
    measures: xr.Dataset, name: str, treatment: str, **others: str
) -> xr.DataArray:
    """Returns a measure of a treatment, for each seed if it has seeds."""
    return measures[name].sel({"treatment": treatment, **others})


def paired(
    measures: xr.Dataset, name: str, treatment: str
) -> tuple[xr.DataArray, xr.DataArray]:
    """Returns a measure of a treatment and of the baseline, paired by seed."""
    return values_of(measures, name, treatment), values_of(measures, name, "baseline")


def value_of(measures: xr.Dataset, name: str, treatment: str, **others: str) -> float:
    """Returns a measure of a treatment that has no seeds."""
    return float(values_of(measures, name, treatment, **others))


def median_of(measures: xr.Dataset, name: str, treatment: str) -> float:
    """Returns the median over the seeds."""
    return float(np.median(values_of(measures, name, treatment)))


def mean_of(measured: Sequence[xr.Dataset], name: str, treatment: str) -> float:
    """Returns the mean over problems of the mean over seeds."""
    return float(np.mean([values_of(m, name, treatment).mean() for m in measured]))


def as_percent(fraction: float, digits: int = 0) -> str:
    """A percentage; "diverged" if the fraction is not finite."""
    return f"{100 * fraction:.{digits}f} %" if np.isfinite(fraction) else "diverged"


def as_interval(found: Interval) -> str:
    """A percentage and its interval."""
    low, high = (f"{100 * end:.0f}" for end in (found.low, found.high))
    return f"{as_percent(found.value)} [{low}, {high}]"


def as_points(found: Interval) -> str:
    """A difference in percentage points, and its interval."""
    value, low, high = (f"{round(100 * number):+d}" for number in found)
    return f"{value} [{low}, {high}]"


def as_times(found: Interval | None) -> str:
    """A ratio of steps and its interval; "never" if infinite, empty if None."""
    if found is None:
        return ""
    value, low, high = (f"{r:.2f}" if np.isfinite(r) else "never" for r in found)
    return value if value == low == high else f"{value} [{low}, {high}]"


def as_loss(loss: float) -> str:
    """A loss or a norm to two digits; "diverged" if it is not finite."""
    if not np.isfinite(loss):
        return "diverged"
    return f"{loss:.0f}" if 100 <= loss < 1e4 else as_number(loss)


def as_number(number: float) -> str:
    """A number to two digits, in few characters: 100, not 1e+02."""
    return f"{float(f'{number:.2g}'):g}"


def as_steps(steps: float) -> str:
    """A number of steps; "never" if infinite."""
    return f"{steps:.0f}" if np.isfinite(steps) else "never"


def count_of(number: int, noun: str) -> str:
    """A number and its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def listed(items: Iterable[str]) -> str:
    """Items with commas and "and"."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
