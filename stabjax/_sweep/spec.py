"""What a store is a store of, as text: `spec.json`, and what may differ from it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from stabjax._sweep.axes import Axis, axis_like
from stabjax._sweep.chunks import Chunk, Group
from stabjax._sweep.program import Settings
from stabjax._sweep.space import Dimension, Space

FORMAT = 1  # of spec.json and of the files of chunks

_Array = np.ndarray[Any, Any]


class Layout(NamedTuple):
    """A space in the order in which a store holds it: what came later stands behind."""

    space: Space
    sizes: list[tuple[int, ...]]  # of the dimensions, after each extension
    order: dict[str, _Array]  # dimension -> where the values stand, in the user's order


class Spec(NamedTuple):
    """All that says which sweep a store holds."""

    layout: Layout
    groups: list[Group]
    settings: Settings
    numerics: dict[str, Any]  # the versions and flags that change the last bits
    about: dict[str, Any]  # for the reader alone


def alone(space: Space) -> Layout:
    """The layout of a sweep that extends no other."""
    order = {d.name: np.arange(len(d)) for d in space.dimensions}
    return Layout(space, [space.shape], order)


def extended(space: Space, held: Layout) -> Layout:
    """The layout of a space in a store that holds a part of it, or all.

    Raises a ValueError, half a sentence, if the space lacks what the store holds.
    """
    given = {dimension.name: dimension for dimension in space.dimensions}
    names = [dimension.name for dimension in held.space.dimensions]
    if given.keys() != set(names):
        raise ValueError(
            f"the store has the dimensions {', '.join(names)}, this sweep has "
            f"{', '.join(given)}"
        )
    places = [_places(given[d.name], d) for d in held.space.dimensions]
    kept = Space(
        tuple(
            Dimension(name, tuple(axis.take(place) for axis in given[name].axes))
            for name, place in zip(names, places, strict=True)
        )
    )
    sizes = [*held.sizes, *([kept.shape] if kept.shape != held.sizes[-1] else [])]
    orders = map(np.argsort, places)  # the inverse of a permutation
    return Layout(kept, sizes, dict(zip(names, orders, strict=True)))


def identity(spec: Spec, chunk: Chunk, rows: Mapping[str, _Array]) -> str:
    """The SHA-256 of what a chunk trains: its program and the values of its trials."""
    found = hashlib.sha256()
    group = spec.groups[chunk.group]
    found.update(json.dumps([group.program, group.labels], sort_keys=True).encode())
    for axis in spec.layout.space.axes:
        if isinstance(axis.values, np.ndarray):
            values = axis.values[rows[axis.name][chunk.trials]]
            wide = np.float64 if values.dtype.kind == "f" else np.int64
            found.update(axis.name.encode() + values.astype(wide).tobytes())
    return found.hexdigest()


def differences(held: Spec, wanted: Spec) -> Iterator[str]:
    """What makes the second a sweep of another kind than the first."""
    same = True
    for old, new in (
        (held.settings._asdict(), wanted.settings._asdict()),
        (held.numerics, wanted.numerics),
    ):
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                same = False
                yield f"{name} is {old.get(name)} there and {new.get(name)} here"
    for group in wanted.groups if same else ():
        known = group_like(held, group.labels)
        if known and known.program != group.program:
            where = " ".join(f"{name}={v}" for name, v in group.labels.items())
            yield (
                f"the program{' of ' + where if where else ''} is another: problem or "
                f"make_optimizer, or something that they close over, has changed"
            )


def group_like(held: Spec, labels: Mapping[str, Any]) -> Group | None:
    """The group of these static values, if the store knows it."""
    for group in held.groups:
        if group.labels == labels:
            return group
    return None


def newer(text: str) -> str | None:
    """The version of stabjax that wrote this, if it is one that writes more."""
    document = json.loads(text)
    return document["about"]["stabjax"] if document["format"] > FORMAT else None


def to_text(spec: Spec) -> str:
    """Canonical JSON: the same sweep gives the same text."""
    space, sizes, order = spec.layout
    document = {
        "format": FORMAT,
        "settings": spec.settings._asdict(),
        "numerics": spec.numerics,
        "dimensions": [
            {
                "name": dimension.name,
                "axes": [_axis_to_json(axis) for axis in dimension.axes],
                "order": order[dimension.name].tolist(),  # of the user
            }
            for dimension in space.dimensions
        ],
        "sizes": sizes,
        "groups": [_group_to_json(group) for group in spec.groups],
        "about": spec.about,
    }
    document = json.loads(json.dumps(document), parse_constant=str)
    lines = [
        f"{json.dumps(name)}: {json.dumps(value, sort_keys=True, allow_nan=False)}"
        for name, value in document.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_text(text: str) -> Spec:
    """The spec in a text; whatever is raised, the text is damaged."""
    document = json.loads(text)
    dimensions = document["dimensions"]
    space = Space(
        tuple(
            Dimension(d["name"], tuple(map(_axis_from_json, d["axes"])))
            for d in dimensions
        )
    )
    order = {d["name"]: np.asarray(d["order"]) for d in dimensions}
    settings = {name: _setting(v) for name, v in document["settings"].items()}
    return Spec(
        Layout(space, [tuple(sizes) for sizes in document["sizes"]], order),
        [_group_from_json(group) for group in document["groups"]],
        Settings(**settings),
        document["numerics"],
        document["about"],
    )


def _setting(value: Any) -> Any:
    """A setting as it was before it became JSON."""
    if value == "Infinity":
        return float("inf")
    return tuple(value) if isinstance(value, list) else value


def _places(dimension: Dimension, held: Dimension) -> _Array:
    """Where the values that a store holds stand in a dimension; the others behind."""
    names, had = ([axis.name for axis in d.axes] for d in (dimension, held))
    if names != had:
        raise ValueError(
            f"dimension {dimension.name!r} has the axes {', '.join(had)} there and "
            f"{', '.join(names)} here"
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
        raise ValueError(
            f"{dimension.name} lacks {shown}{', ...' if len(lost) > 5 else ''} here, "
            f"which the store holds"
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
