"""Consistency checks of a plan that was read from a possibly damaged file."""

import math
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any

import jax
import numpy as np

from stabjax._sweep.archive import numpy_dtype
from stabjax._sweep.axes import check_seeds
from stabjax._sweep.free_memory import check_fits
from stabjax._sweep.plan import Group, Plan, check_trials_fit
from stabjax._sweep.program import CURVE, STATE
from stabjax._sweep.settings import Settings
from stabjax._sweep.space import TRIAL, Dimension, Space

_KINDS = "biufc"  # of NumPy dtypes, after short floats have become float32


def check_consistent(plan: Plan) -> None:
    """Raises an error if parts of a plan are inconsistent or need too much memory.

    Arrays for its trials are created only after this check.
    """
    space = plan.space
    wrong = [
        *_wrong_settings(plan.settings),
        *_wrong_space(space),
        *_wrong_sizes(plan),
        *_wrong_groups(plan),
        *_wrong_texts(plan),
    ]
    if wrong:
        raise ValueError("; ".join(wrong[:3]))
    # The coordinates of the dataset, even if no variable has their length.
    size = 16 * sum(_lengths(plan.settings))
    check_fits("its recorded steps", size, "use another store")
    check_trials_fit(space, [group.variables for group in plan.groups])


def _wrong_settings(settings: Settings) -> Iterator[str]:
    steps, rungs = settings.steps, settings.rungs
    intervals = (settings.record_every, settings.evaluate_every)
    if not _is_size(steps):
        yield f"steps is {steps!r}"
    elif not all(n is None or (_is_size(n) and n <= steps) for n in intervals):
        yield f"record_every and evaluate_every are {intervals!r}"
    elif not all(map(_is_size, rungs)) or list(rungs) != sorted({*rungs}):
        yield f"rungs are {rungs!r}"
    elif rungs and (rungs[-1] != steps or not _is_factor(settings.eta)):
        yield f"rungs are {rungs!r} for {steps} steps, eta is {settings.eta!r}"
    for name, value in settings._asdict().items():
        parts = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(part, (int, float, str, NoneType)) for part in parts):
            yield f"{name} is {value!r}"


def _wrong_texts(plan: Plan) -> Iterator[str]:
    parts: dict[str, Any] = {"about": plan.about, "numerics": plan.numerics}
    for name, value in parts.items():
        if not isinstance(value, dict):
            yield f"{name} is {value!r}"
    for name in ("platform", "jax"):
        if not isinstance(plan.numerics[name], str):
            yield f"{name} is {plan.numerics[name]!r}"
    for group in plan.groups:
        labels = {d.name for d in plan.space.axes if d.is_static}
        if group.labels.keys() != labels or not isinstance(group.program, str):
            yield f"the static values of a program are {group.labels!r}"


def _wrong_space(space: Space) -> Iterator[str]:
    names = [dimension.name for dimension in space.dimensions]
    axes = [axis.name for axis in space.axes]
    named = all(isinstance(name, str) and name for name in (*names, *axes))
    if not named or len({*names}) < len(names) or len({*axes}) < len(axes):
        yield f"the axes are {axes!r} along {names!r}"
        return
    for dimension in space.dimensions:
        yield from _wrong_dimension(dimension)
    for axis in space.axes:
        if axis.name == "seed":
            check_seeds(axis)


def _wrong_dimension(dimension: Dimension) -> Iterator[str]:
    lengths = {len(axis.values) for axis in dimension.axes}
    numbers = dimension.numbers
    if len(lengths) != 1 or 0 in lengths:
        yield f"the axes of {dimension.name!r} have the lengths {sorted(lengths)}"
    elif dimension.name != TRIAL and [a.name for a in dimension.axes] != [
        dimension.name
    ]:
        yield f"dimension {dimension.name!r} has axes with other names"
    elif numbers is not None and (
        len(numbers) != len(dimension) or not all(type(n) is int for n in numbers)
    ):
        yield f"the trials along {dimension.name!r} are numbered incorrectly"


def _wrong_sizes(plan: Plan) -> Iterator[str]:
    shape, last = plan.space.shape, tuple(0 for _ in plan.space.shape)
    for sizes in plan.sizes:
        grows = len(sizes) == len(shape) and all(map(_is_size, sizes))
        if not grows or any(new < old for new, old in zip(sizes, last, strict=True)):
            yield f"the sizes are {plan.sizes!r}"
            return
        last = sizes
    if last != shape:
        yield f"the last sizes are {last!r}, but the values have sizes {shape!r}"
    for dimension in plan.space.dimensions:
        order, size = plan.order[dimension.name], len(dimension)
        if order.shape != (size,) or (np.sort(order) != np.arange(size)).any():
            yield f"the order of {dimension.name!r} is not a permutation"


def _wrong_groups(plan: Plan) -> Iterator[str]:
    groups, programs = plan.groups, math.prod(d.programs for d in plan.space.dimensions)
    if len(groups) != programs:
        yield f"there are {len(groups)} groups for {programs} programs"
    recorded, evaluated = _lengths(plan.settings)
    shapes: dict[str, tuple[int, ...]] = {}
    axes = {axis.name for axis in plan.space.axes}
    for group in groups:
        if not _is_size(group.width) or not isinstance(group.shared_seed, bool):
            yield f"width is {group.width!r}, shared_seed is {group.shared_seed!r}"
        if group.engine not in ("vmap", "lanes"):
            yield f"engine is {group.engine!r}"
        if "status" not in group.variables or axes & group.variables.keys():
            yield f"the variables are {', '.join(map(repr, group.variables))}"
        yield from _wrong_variables(group, recorded, evaluated)
        for name, shape in _shapes(group).items():
            if shapes.setdefault(name, shape) != shape:
                yield f"variable {name!r} has two shapes"


def _lengths(settings: Settings) -> tuple[int, int]:
    """Returns the numbers of recorded and evaluated steps, or 0 if there are none."""
    steps, every = settings.steps, settings.record_every
    recorded = 0 if every is None else len(range(0, steps, every))
    every = settings.evaluate_every
    return recorded, 0 if every is None else steps // every


def _wrong_variables(group: Group, recorded: int, evaluated: int) -> Iterator[str]:
    for name, like in group.variables.items():
        shape, kind = like.shape, numpy_dtype(like.dtype).kind
        length = evaluated if name.endswith(CURVE) else recorded
        allowed = shape == () or (length > 0 and shape == (length,))
        if name.startswith(STATE):
            allowed = all(size == 0 or _is_size(size) for size in shape)
        if not allowed or kind not in _KINDS:
            yield f"variable {name!r} has shape {shape!r} and type {like.dtype}"


def _shapes(group: Group) -> dict[str, tuple[int, ...]]:
    given: Mapping[str, jax.ShapeDtypeStruct] = group.variables
    return {n: like.shape for n, like in given.items() if not n.startswith(STATE)}


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_factor(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 1
