"""Extracting and formatting measures for the report."""

from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr

from stabjax._intervals import Estimate


def values_of(
    measures: xr.Dataset, name: str, treatment: str, **others: str
) -> xr.DataArray:
    """Returns a measure of a treatment, which can have one value per seed."""
    return measures[name].sel({"treatment": treatment, **others})


def paired(
    measures: xr.Dataset, name: str, treatment: str
) -> tuple[xr.DataArray, xr.DataArray]:
    """Returns a measure of a treatment and of the baseline, paired by seed."""
    return values_of(measures, name, treatment), values_of(measures, name, "baseline")


def value_of(measures: xr.Dataset, name: str, treatment: str, **others: str) -> float:
    """Returns a measure of a treatment that does not depend on the seed."""
    return float(values_of(measures, name, treatment, **others))


def median_of(measures: xr.Dataset, name: str, treatment: str) -> float:
    """Returns the median of a measure over the seeds."""
    return float(np.median(values_of(measures, name, treatment)))


def mean_of(measured: Sequence[xr.Dataset], name: str, treatment: str) -> float:
    """Returns the mean of a measure over seeds and problems."""
    return float(np.mean([values_of(m, name, treatment).mean() for m in measured]))


def as_percent(fraction: float, digits: int = 0) -> str:
    """Formats a percentage, or returns "diverged" if the fraction is not finite."""
    return f"{100 * fraction:.{digits}f}%" if np.isfinite(fraction) else "diverged"


def as_interval(found: Estimate) -> str:
    """Formats a percentage and its interval."""
    low, high = (f"{100 * end:.0f}" for end in (found.low, found.high))
    return f"{as_percent(found.value)} [{low}, {high}]"


def as_points(found: Estimate) -> str:
    """Formats a difference in percentage points and its interval."""
    value, low, high = (f"{round(100 * number):+d}" for number in found)
    return f"{value} [{low}, {high}]"


def as_times(found: Estimate | None) -> str:
    """Formats a ratio of steps and its interval, with "never" for infinity."""
    if found is None:
        return ""
    value, low, high = (f"{r:.2f}" if np.isfinite(r) else "never" for r in found)
    return value if value == low == high else f"{value} [{low}, {high}]"


def as_loss(loss: float) -> str:
    """Formats a loss or norm with two digits, or "diverged" if it is not finite."""
    if not np.isfinite(loss):
        return "diverged"
    return f"{loss:.0f}" if 100 <= loss < 1e4 else as_number(loss)


def as_number(number: float) -> str:
    """Formats a number with two significant digits, such as 100 instead of 1e+02."""
    return f"{float(f'{number:.2g}'):g}"


def as_steps(steps: float) -> str:
    """Formats a number of steps, or returns "never" if it is infinite."""
    return f"{steps:.0f}" if np.isfinite(steps) else "never"


def count_of(number: int, noun: str) -> str:
    """Formats a count with its noun in the singular or plural."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def listed(items: Iterable[str]) -> str:
    """Joins items with commas and "and"."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Formats a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
