"""The next space to sweep: denser, around the best region."""

from typing import Any

import numpy as np
import xarray as xr

from stabjax._arguments import check
from stabjax._intervals import within_noise
from stabjax._sweep.axes import Axis, static
from stabjax._sweep.space import Space, grid
from stabjax.runs.curves import Scale, scale_of
from stabjax.runs.tables import complete, scores_of

_Array = np.ndarray[Any, Any]


def refine(
    space: Space,
    runs: xr.Dataset,
    *,
    variable: str = "final_loss",
    maximize: bool | None = None,
    confidence: float = 0.95,
) -> Space:
    """Returns the next space to sweep: denser around the best region of a grid.

    The region is made of all points whose mean over the seeds is within noise of the
    best point's, by Student's test of the paired differences. Each axis of numbers then
    reaches from the value below the region to the value above, with as many values as
    before, evenly spaced on a logarithmic axis if all are positive. Where the best
    point is at an edge of the grid, the axis goes two steps beyond. Of other values,
    such as names, those in the region are kept, and an axis that lies in the region as
    a whole keeps its values: more seeds would tell them apart, not more values.

    To train the same runs further, sweep again with more `steps`: the final states of a
    sweep are not stored, and a schedule that ends with the run changes with its length.

    Args:
      space: the space of the sweep, a grid.
      runs: the dataset of the sweep, or of `successive_halving`.
      variable: a variable with one value for each run.
      maximize: whether larger values are better, as for an accuracy. None asks the
        problem's metadata, and otherwise minimizes.
      confidence: confidence of the tests, in (0, 1).

    Returns:
      A grid with the same axes and seeds.

    Raises:
      ValueError: the space is not a grid, or not that of the runs; or every point has a
        diverged run.

    Example:
      >>> import numpy as np, optax, stabjax
      >>> space = stabjax.grid(rate=np.logspace(-2, 0, 9), seed=range(8))
      >>> problem = stabjax.problems.quadratic(noise=1.0)
      >>> runs = stabjax.sweep(problem, lambda rate: optax.sgd(rate), space, steps=20)
      >>> denser = stabjax.runs.refine(space, runs)
      >>> print(denser.axes[0].values.round(3))
      [0.056 0.07  0.087 0.107 0.133 0.165 0.205 0.255 0.316]
    """
    check("confidence", confidence, "in (0, 1)")
    axes = {axis.name: axis for axis in space.axes}
    if any(d.name not in axes for d in space.dimensions):
        raise ValueError(
            "space must be a grid, got one with a dimension `trial`: sample again from "
            "narrower distributions."
        )
    swept = {name: axis for name, axis in axes.items() if name != "seed"}
    for name, axis in swept.items():
        if runs[name].dims != (name,) or len(runs[name]) != len(axis.values):
            raise ValueError(f"runs must have the axes of space, got another {name!r}.")
    scores, _ = scores_of(runs, variable, maximize)
    values = scores.transpose("seed", *swept).values
    region, best = _region(values, confidence)
    found: dict[str, Any] = {}
    for position, (name, axis) in enumerate(swept.items()):
        others = tuple(k for k in range(region.ndim) if k != position)
        near = np.atleast_1d(region.any(axis=others))
        found[name] = _refined(axis, near, best[position])
    return grid(**{name: found.get(name, axis.values) for name, axis in axes.items()})


def _region(scores: _Array, confidence: float) -> tuple[_Array, tuple[int, ...]]:
    """Returns which points are within noise of the best one, and its position."""
    shape = scores.shape[1:]
    table, kept, _ = complete(scores.reshape(len(scores), -1))
    means = table.mean(axis=0)
    best = int(means.argmin())
    if not np.isfinite(means[best]):
        raise ValueError("runs must hold a point without a diverged run.")
    near = np.arange(len(means)) == best
    if len(table) > 1:
        near = within_noise(table.T, table[:, best], confidence)
    region = np.zeros(np.prod(shape, dtype=int), bool)
    region[kept] = near
    position = np.unravel_index(int(kept[best]), shape)
    return region.reshape(shape), tuple(int(k) for k in position)


def _refined(axis: Axis, near: _Array, best: int) -> Any:
    """Returns the next values of an axis."""
    if near.all():
        return static(axis.values) if axis.is_static else axis.values
    if axis.is_static:
        return static([v for v, keep in zip(axis.values, near, strict=True) if keep])
    values = np.asarray(axis.values)
    order = np.argsort(values)
    place = int(np.flatnonzero(order == best)[0])
    values, near = values[order], near[order]
    finite = np.isfinite(values)
    kept = values[~finite & near]  # an infinite threshold
    if (near & finite).any() and finite.sum() > 1:
        dense = _spread(values[finite].astype(float), near[finite], place)
        if values.dtype.kind in "iu":
            dense = np.unique(np.round(dense)).astype(values.dtype)
        kept = np.concatenate([dense, kept])
    return kept if kept.size else values[near]


def _spread(values: _Array, near: _Array, best: int) -> _Array:
    """Returns as many values, from below the region to above it."""
    scale: Scale = scale_of(values)
    x = scale.to(values)
    first, last = np.flatnonzero(near)[[0, -1]]
    low, high = x[max(first - 1, 0)], x[min(last + 1, len(x) - 1)]
    if best == 0:
        low = x[0] - 2 * (x[1] - x[0])
    if best == len(x) - 1:
        high = x[-1] + 2 * (x[-1] - x[-2])
    dense: _Array = scale.back(np.linspace(low, high, len(x)))
    # The ends are values of the axis, to the last bit.
    ends = {0: values[max(first - 1, 0)], -1: values[min(last + 1, len(x) - 1)]}
    for end, value in ends.items():
        if np.isclose(dense[end], value):
            dense[end] = value
    return dense
