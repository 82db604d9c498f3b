"""Random and low-discrepancy sampling of axis values."""

import warnings
from typing import Any

import numpy as np

from stabjax._arguments import check_choice
from stabjax._sweep.axes import Axis, axis_of

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
    cube = _cube(int(n), dimensions, int(seed), points)
    return np.clip(cube, _MARGIN, 1 - _MARGIN).T


def drawn_axis(name: str, values: Any, unit: _Array) -> Axis:
    """Maps points in (0, 1) to values of a distribution or to choices."""
    if not hasattr(values, "ppf"):
        choices = axis_of(name, values)
        return choices.take((unit * len(choices.values)).astype(np.int64))
    from scipy import stats

    drawn = values.ppf(unit)
    whole = (
        isinstance(getattr(values, "dist", values), stats.rv_discrete)
        and np.isfinite(drawn).all()
    )
    return axis_of(name, drawn.astype(np.int64) if whole else drawn)


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
