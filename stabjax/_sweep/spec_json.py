"""Serializing and comparing plans."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from stabjax._sweep.axes import Axis, axis_like, check_name
from stabjax._sweep.damage import check_consistent
from stabjax._sweep.plan import Chunk, Group, Plan
from stabjax._sweep.settings import Settings
from stabjax._sweep.space import Dimension, Space

FORMAT = 3  # version of spec.json and of chunk files; 2 had no accepted versions
VERSIONS = ("jax", "jaxlib", "stabjax", "optax")
_OTHER_FUNCTIONS = "problem, make_optimizer or a value that they read has changed"

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


def identities(plan: Plan, chunk: Chunk) -> list[str]:
    """Returns SHA-256 hashes that identify the program and the trials of a chunk.

    The first hash is for the present versions of the libraries, and the others are for
    accepted versions.
    """
    group = plan.groups[chunk.group]
    values = b""
    for axis in plan.space.axes:
        if isinstance(axis.values, np.ndarray):
            mine = axis.values[plan.space.rows[axis.name][chunk.trials]]
            wide = np.float64 if mine.dtype.kind == "f" else np.int64
            values += axis.name.encode() + mine.astype(wide).tobytes()
    found = []
    for program in (group.program, *group.accepted):
        about = json.dumps([program, group.labels, chunk.steps], sort_keys=True)
        found.append(hashlib.sha256(about.encode() + values).hexdigest())
    return found


def versions(plan: Plan) -> dict[str, str]:
    """Returns the versions of the libraries that a plan was made with."""
    return {n: str({**plan.about, **plan.numerics}.get(n)) for n in VERSIONS}


def differences(held: Plan, wanted: Plan, accept_versions: bool) -> Iterator[str]:
    """Yields the differences between two plans that make their results incompatible.

    With `accept_versions`, other versions of the libraries are compatible. Versions
    change the text of a program, so the programs cannot be compared then.
    """
    old = {**held.settings.as_data(), **held.numerics}
    new = {**wanted.settings.as_data(), **wanted.numerics}
    ignored = VERSIONS if accept_versions else ()
    names = [n for n in (*old, *new) if old.get(n) != new.get(n) and n not in ignored]
    for name in sorted({*names}):
        yield f"{name} is {old.get(name)} in the store and {new.get(name)} here"
    upgraded = versions(held) != versions(wanted)
    for group in () if names or (upgraded and accept_versions) else wanted.groups:
        known = group_like(held, group.labels)
        if known and group.program not in (known.program, *known.accepted):
            where = " ".join(f"{name}={v}" for name, v in group.labels.items())
            if types := _other_types(held, wanted):
                yield types
                return
            yield (
                f"the program{' for ' + where if where else ''} differs because "
                f"{_other_versions(held, wanted) or _OTHER_FUNCTIONS}"
            )


def with_accepted(group: Group, held: Group) -> Group:
    """Returns a group that also accepts the results of a stored group's programs."""
    programs = (held.program, *held.accepted)
    return group._replace(accepted=tuple(p for p in programs if p != group.program))


def _other_versions(held: Plan, wanted: Plan) -> str:
    old, new = versions(held), versions(wanted)
    changed = [n for n in VERSIONS if old[n] != new[n]]
    return ", ".join(f"{n} is {old[n]} there and {new[n]} here" for n in changed)


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


def newer(text: str | bytes) -> str | None:
    """Returns the stabjax version that wrote the text if its format is too new."""
    document = json.loads(text)
    return document["about"]["stabjax"] if document["format"] > FORMAT else None


def to_text(plan: Plan) -> str:
    """Returns canonical JSON, which is identical for identical sweeps."""
    document = {
        "format": FORMAT,
        "settings": plan.settings.as_data(),
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


def from_text(text: str | bytes) -> Plan:
    """Parses a plan and raises an exception of any type if the text is damaged."""
    document = json.loads(text)
    dimensions = document["dimensions"]
    plan = Plan(
        space=Space(tuple(map(_dimension_from_json, dimensions))),
        sizes=tuple(tuple(sizes) for sizes in document["sizes"]),
        order={d["name"]: np.asarray(d["order"]) for d in dimensions},
        settings=settings_from_json(document["settings"]),
        groups=tuple(_group_from_json(group) for group in document["groups"]),
        numerics=document["numerics"],
        about=document["about"],
    )
    check_consistent(plan)
    return plan


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
    check_name(axis["name"])
    if "static" in axis:
        return axis_like(axis["name"], axis["static"], axis["literal"])
    dtype = np.dtype(axis["dtype"])
    if dtype.kind not in "iuf":
        raise ValueError(f"axis {axis['name']!r} has the type {dtype}")
    values = np.array([dtype.type(value) for value in axis["values"]], dtype)
    return Axis(axis["name"], values)


def _group_to_json(group: Group) -> dict[str, Any]:
    variables = {n: [str(v.dtype), v.shape] for n, v in group.variables.items()}
    return {**group._asdict(), "variables": variables}


def _group_from_json(group: dict[str, Any]) -> Group:
    variables = {
        name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(str(dtype)))
        for name, (dtype, shape) in group["variables"].items()
    }
    accepted = tuple(group.get("accepted", ()))
    return Group(**{**group, "variables": variables, "accepted": accepted})
