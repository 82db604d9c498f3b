"""Serializing and comparing plans."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from stabjax._sweep.axes import Axis, axis_like
from stabjax._sweep.plan import Chunk, Group, Plan
from stabjax._sweep.settings import Settings
from stabjax._sweep.space import Dimension, Space

FORMAT = 2  # version of the format of spec.json and of chunk files

_Array = np.ndarray[Any, Any]
_Order = tuple[Space, tuple[tuple[int, ...], ...], dict[str, _Array]]


def ordered(space: Space, held: Plan | None) -> _Order:
    """Reorders a space to match a store, with values that are new to the store last.

    Returns:
      The space, its shape after each extension, and the positions of its values in the
      user's order, keyed by dimension.

    Raises:
      LookupError: If the space lacks values of the store. The message is a phrase for
        use in a longer error message.
    """
    given = {dimension.name: dimension for dimension in space.dimensions}
    if held is None:
        order = {name: np.arange(len(d)) for name, d in given.items()}
        return space, (space.shape,), order
    names = [dimension.name for dimension in held.space.dimensions]
    if given.keys() != set(names):
        raise LookupError(
            f"the dimensions are {', '.join(names)} in the store and "
            f"{', '.join(given)} here"
        )
    places = [_places(given[d.name], d) for d in held.space.dimensions]
    kept = Space(
        tuple(given[name].take(p) for name, p in zip(names, places, strict=True))
    )
    longer = kept.shape != held.sizes[-1]
    if longer and held.settings.rungs:
        raise LookupError(
            "successive halving compares all points, so none can be added later"
        )
    sizes = (*held.sizes, kept.shape) if longer else held.sizes
    orders = map(np.argsort, places)  # the inverse of a permutation
    return kept, sizes, dict(zip(names, orders, strict=True))


def identity(plan: Plan, chunk: Chunk) -> str:
    """Returns a SHA-256 hash that identifies the program and the trials of a chunk."""
    found = hashlib.sha256()
    group = plan.groups[chunk.group]
    about = [group.program, group.labels, chunk.steps]
    found.update(json.dumps(about, sort_keys=True).encode())
    for axis in plan.space.axes:
        if isinstance(axis.values, np.ndarray):
            values = axis.values[plan.space.rows[axis.name][chunk.trials]]
            wide = np.float64 if values.dtype.kind == "f" else np.int64
            found.update(axis.name.encode() + values.astype(wide).tobytes())
    return found.hexdigest()


def differences(held: Plan, wanted: Plan) -> Iterator[str]:
    """Yields the differences between two plans that make their results incompatible."""
    same = True
    for old, new in (
        (held.settings._asdict(), wanted.settings._asdict()),
        (held.numerics, wanted.numerics),
    ):
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                same = False
                yield f"{name} is {old.get(name)} in the store and {new.get(name)} here"
    for group in wanted.groups if same else ():
        known = group_like(held, group.labels)
        if known and known.program != group.program:
            where = " ".join(f"{name}={v}" for name, v in group.labels.items())
            if types := _other_types(held, wanted):
                yield types
                return
            yield (
                f"the program{' for ' + where if where else ''} differs because "
                f"problem, make_optimizer or a value that they read has changed"
            )


def _other_types(held: Plan, wanted: Plan) -> str:
    """Describes an axis with integers in one plan and floats in the other."""
    types = {
        axis.name: axis.values.dtype
        for axis in held.space.axes
        if isinstance(axis.values, np.ndarray)
    }
    for axis in wanted.space.axes:
        old, new = types.get(axis.name), getattr(axis.values, "dtype", None)
        if old is not None and new is not None and old.kind != new.kind:
            return (
                f"the values of axis {axis.name!r} are {old} in the store and {new} "
                f"here (write both as integers or both as floats)"
            )
    return ""


def group_like(held: Plan, labels: Mapping[str, Any]) -> Group | None:
    """Returns the group with the given static labels, or None."""
    for group in held.groups:
        if group.labels == labels:
            return group
    return None


def newer(text: str) -> str | None:
    """Returns the stabjax version that wrote the text if its format is too new."""
    document = json.loads(text)
    return document["about"]["stabjax"] if document["format"] > FORMAT else None


def to_text(plan: Plan) -> str:
    """Returns canonical JSON, which is identical for identical sweeps."""
    document = {
        "format": FORMAT,
        "settings": plan.settings._asdict(),
        "numerics": plan.numerics,
        "dimensions": [
            {
                "name": dimension.name,
                "axes": [_axis_to_json(axis) for axis in dimension.axes],
                "numbers": dimension.numbers,
                "order": plan.order[dimension.name].tolist(),  # user's order
            }
            for dimension in plan.space.dimensions
        ],
        "sizes": plan.sizes,
        "groups": [_group_to_json(group) for group in plan.groups],
        "about": plan.about,
    }
    document = json.loads(json.dumps(document), parse_constant=str)
    lines = [
        f"{json.dumps(name)}: {json.dumps(value, sort_keys=True, allow_nan=False)}"
        for name, value in document.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_text(text: str) -> Plan:
    """Parses a plan and raises an exception of any type if the text is damaged."""
    document = json.loads(text)
    dimensions = document["dimensions"]
    return Plan(
        space=Space(tuple(map(_dimension_from_json, dimensions))),
        sizes=tuple(tuple(sizes) for sizes in document["sizes"]),
        order={d["name"]: np.asarray(d["order"]) for d in dimensions},
        settings=settings_from_json(document["settings"]),
        groups=tuple(_group_from_json(group) for group in document["groups"]),
        numerics=document["numerics"],
        about=document["about"],
    )


def settings_from_json(values: Mapping[str, Any]) -> Settings:
    """Converts settings from JSON, restoring tuples and infinities."""

    def value_of(value: Any) -> Any:
        if value in ("Infinity", "-Infinity"):
            return float(value)
        return tuple(map(value_of, value)) if isinstance(value, list) else value

    return Settings(**{name: value_of(value) for name, value in values.items()})


def _dimension_from_json(given: dict[str, Any]) -> Dimension:
    numbers = None if given["numbers"] is None else tuple(given["numbers"])
    return Dimension(given["name"], tuple(map(_axis_from_json, given["axes"])), numbers)


def _places(dimension: Dimension, held: Dimension) -> _Array:
    """Returns the positions of stored values in a dimension, followed by the others."""
    names, had = ([axis.name for axis in d.axes] for d in (dimension, held))
    if names != had:
        raise LookupError(
            f"dimension {dimension.name!r} has the axes {', '.join(had)} in the store "
            f"and {', '.join(names)} here"
        )
    values, wanted = _values(dimension), _values(held)
    if values == wanted:
        return np.arange(len(values))
    where: dict[tuple[Any, ...], list[int]] = {}
    for place in reversed(range(len(values))):
        where.setdefault(values[place], []).append(place)
    found = [where[value].pop() if where.get(value) else None for value in wanted]
    places = [place for place in found if place is not None]
    if len(places) < len(found):
        lost = [v for v, place in zip(wanted, found, strict=True) if place is None]
        shown = ", ".join(" ".join(map(str, value)) for value in lost[:5])
        raise LookupError(
            f"{dimension.name} has no {shown}{', ...' if len(lost) > 5 else ''} here, "
            f"but the store does"
        )
    return np.array([*places, *sorted({*range(len(values))}.difference(places))])


def _values(dimension: Dimension) -> list[tuple[Any, ...]]:
    return list(zip(*(axis.labels.tolist() for axis in dimension.axes), strict=True))


def _axis_to_json(axis: Axis) -> dict[str, Any]:
    values = axis.labels.tolist()
    if isinstance(axis.values, np.ndarray):
        return {"name": axis.name, "dtype": axis.values.dtype.str, "values": values}
    return {"name": axis.name, "static": values, "literal": axis.literal}


def _axis_from_json(axis: dict[str, Any]) -> Axis:
    if "static" in axis:
        return axis_like(axis["name"], axis["static"], axis["literal"])
    dtype = np.dtype(axis["dtype"])
    values = np.array([dtype.type(value) for value in axis["values"]], dtype)
    return Axis(axis["name"], values)


def _group_to_json(group: Group) -> dict[str, Any]:
    variables = {n: [str(v.dtype), v.shape] for n, v in group.variables.items()}
    return {**group._asdict(), "variables": variables}


def _group_from_json(group: dict[str, Any]) -> Group:
    variables = {
        name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
        for name, (dtype, shape) in group["variables"].items()
    }
    return Group(**{**group, "variables": variables})
