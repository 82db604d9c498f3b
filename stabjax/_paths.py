"""Paths of the leaves of a tree, independent of the containers used."""

from collections.abc import Callable, Container, Sequence

import jax
import numpy as np


def leaf_paths(tree: object) -> list[tuple[str, ...]]:
    """Returns the path of each leaf, in the order of `jax.tree.leaves`.

    Flax NNX variables and Linen arrays boxed with partitioning metadata have the path
    of their array in the gradient tree.
    """
    paths = []
    for path, node in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_variable):
        outer = tuple(map(_key, path))
        if not _is_variable(node):
            paths.append(outer)
            continue
        for inner, _ in jax.tree_util.tree_leaves_with_path(node):
            paths.append((*outer, *map(_key, inner[1:])))
    return paths


def leaf_name(path: Sequence[str]) -> str:
    """Formats the path of a leaf, for example `dense/kernel`."""
    return "/".join(path)


def check_arrays(argument: str, tree: object) -> None:
    """Raises a TypeError that names the first leaf that is not an array or number."""
    for path, leaf in zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True):
        number = isinstance(leaf, bool | int | float | complex | np.number)
        if not number and not hasattr(leaf, "dtype"):
            shown = getattr(leaf, "__name__", repr(leaf))
            raise TypeError(
                f"{argument} must contain arrays, got {shown} at {leaf_name(path)!r}. "
                "Replace other leaves with None, for example with equinox.filter."
            )


def match_prefix(
    argument: str,
    prefix: object,
    tree: object,
    is_value: Callable[[object], bool] | None = None,
) -> list[int]:
    """Returns the position in a prefix tree of each leaf's value.

    A value applies to all leaves whose path begins with the path of the value.
    Container types do not matter: a dict matches a Flax NNX state, a FrozenDict or an
    Equinox module.

    Args:
      argument: name of the prefix tree in error messages.
      prefix: tree of values.
      tree: tree whose leaves need values.
      is_value: predicate for values that are themselves trees, such as None or a tuple.

    Raises:
      ValueError: If a leaf has no value, or a value does not match any leaf.
    """
    values, structure = jax.tree.flatten(prefix, is_leaf=is_value)
    paths = leaf_paths(jax.tree.unflatten(structure, range(len(values))))
    places = {path: position for position, path in enumerate(paths)}
    positions, unused = [], set(places)
    for path in leaf_paths(tree):
        place = _beginning(path, places)
        if place is None:
            raise ValueError(
                f"{argument} must have a value for every parameter, "
                f"got none for {leaf_name(path)!r}."
            )
        unused.discard(place)
        positions.append(places[place])
    if unused:
        # Masked parameters have a path but no leaves.
        filled = jax.tree.map(
            lambda _: 0, tree, is_leaf=lambda x: not jax.tree.leaves(x)
        )
        nodes = set(leaf_paths(filled))
        for place in sorted(unused):
            if _beginning(place, nodes) is None:
                raise ValueError(
                    f"{argument} must only have values for parameters, "
                    f"got one for {leaf_name(place)!r}."
                )
    return positions


def _is_variable(node: object) -> bool:
    """Returns whether a node is a Flax NNX variable or a Linen box."""
    # Compares names because Flax may not be installed.
    return any(
        (kind.__name__ == "Variable" and kind.__module__.startswith("flax.nnx"))
        or (kind.__name__ == "AxisMetadata" and kind.__module__ == "flax.core.meta")
        for kind in type(node).__mro__
    )


def _key(entry: object) -> str:
    """Returns the field, key or index of a path entry."""
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _beginning(
    path: tuple[str, ...], places: Container[tuple[str, ...]]
) -> tuple[str, ...] | None:
    """Returns the shortest prefix of a path that is in `places`, or None."""
    starts = (path[:depth] for depth in range(len(path) + 1))
    return next((start for start in starts if start in places), None)
