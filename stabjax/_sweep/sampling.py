"""Random and low-discrepancy sampling of axis values."""

import warnings
from typing import Any

import numpy as np

from stabjax._arguments import check_choice
from stabjax._sweep.axes import Axis, axis_of
from stabjax._sweep.free_memory import check_fits
from stabjax._sweep.warn import warn

POINTS = ("random", "sobol", "halton")
_MARGIN = 2.0**-32  # distance from 0 and 1, where quantiles can be infinite

_Array = np.ndarray[Any, Any]


def unit_points(n: Any, dimensions: int, seed: Any, points: str) -> _Array:
    """Returns points in the open unit cube, with one row per dimension."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n must be an integer >= 1, got {n!r}.")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(
            f"seed must be an integer >= 0, got {seed!r}. Pass it as the second "
            f"argument, as in sample({n}, 0, ...)."
        )
    check_choice("points", points, POINTS)
    size = 3 * 8 * int(n) * dimensions
    check_fits(f"{n:,} trials of {dimensions} axes", size, "sample fewer trials")
    cube = _cube(int(n), dimensions, int(seed), points)
    return np.clip(cube, _MARGIN, 1 - _MARGIN).T


def drawn_axis(name: str, values: Any, unit: _Array) -> Axis:
    """Maps points in (0, 1) to values of a distribution or to choices."""
    if not hasattr(values, "ppf"):
        _warn_about_range(name, values)
        choices = axis_of(name, values)
        return choices.take((unit * len(choices.values)).astype(np.int64))
    from scipy import stats

    drawn = values.ppf(unit)
    whole = (
        isinstance(getattr(values, "dist", values), stats.rv_discrete)
        and np.isfinite(drawn).all()
    )
    return axis_of(name, drawn.astype(np.int64) if whole else drawn)


def _warn_about_range(name: str, values: Any) -> None:
    """Warns if two choices look like the ends of a range."""
    numbers = isinstance(values, tuple) and len(values) == 2
    if numbers and all(type(value) in (int, float) for value in values):
        low, high = values
        if low < high and float in map(type, values):
            warn(
                f"{name}=({low}, {high}) are two choices, not a range: write "
                f"scipy.stats.loguniform({low}, {high}) or uniform for a range, and a "
                f"list for choices.",
                UserWarning,
            )


def _cube(n: int, dimensions: int, seed: int, points: str) -> _Array:
    generator = np.random.default_rng(seed)
    if points == "random":
        return generator.random((n, dimensions))
    from scipy.stats import qmc

    make = {"sobol": qmc.Sobol, "halton": qmc.Halton}[points]
    with warnings.catch_warnings():  # SciPy warns if n is not a power of 2
        warnings.simplefilter("ignore", UserWarning)
        found: _Array = make(dimensions, seed=generator).random(n)
    return found
