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

    The region consists of all points that do not differ significantly from the best
    one (Student's t-test of the differences, paired by seed). A numeric axis then
    extends from the value below the region to the value above it, with the same number
    of values, which are logarithmically spaced if all are positive. If the best point
    is at an edge of the grid, the axis extends two steps beyond that edge. On other
    axes, such as names, the values in the region are kept. An axis is unchanged if the
    region contains all of its values, because only more seeds could distinguish them.

    To train the best runs for longer, sweep the new space with more `steps`. Runs
    cannot be continued, because a sweep does not store their final states.

    Args:
      space: the space of the sweep, a grid.
      runs: the dataset of `sweep` or `successive_halving`.
      variable: a variable with one value per run.
      maximize: whether larger values are better. None uses the problem's metadata, and
        minimizes by default.
      confidence: confidence level of the tests, in (0, 1).

    Returns:
      A grid with the same axes and seeds.

    Raises:
      ValueError: If the space is not a grid or does not match the runs, or every point
        has a diverged run.

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
            raise ValueError(
                f"runs must have the axes of space, got a different {name!r}."
            )
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
    """Returns which points do not differ from the best one, and its position."""
    shape = scores.shape[1:]
    table, kept, _ = complete(scores.reshape(len(scores), -1))
    means = table.mean(axis=0)
    best = int(means.argmin())
    if not np.isfinite(means[best]):
        raise ValueError("runs must contain a point without a diverged run.")
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
    """Returns the same number of values, from below the region to above it."""
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
