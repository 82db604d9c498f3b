"""Values for groups of leaves: a tree of values that is a prefix of another tree."""

from collections.abc import Callable, Container

import jax

from stabjax._paths import leaf_name, leaf_paths


def match_prefix(
    argument: str,
    prefix: object,
    tree: object,
    is_value: Callable[[object], bool] | None = None,
) -> list[int]:
    """Returns, for each leaf of a tree, the position of its value in a prefix.

    A value stands for all leaves whose path begins with its own, whatever containers
    hold them: a dict matches a Flax NNX state, a FrozenDict or an Equinox module.

    Args:
      argument: the name of the prefix, for messages.
      prefix: a tree of values.
      tree: the tree whose leaves need values.
      is_value: tells a value that is itself a tree, such as None or a tuple.

    Raises:
      ValueError: a leaf has no value, or a value has no place in the tree.
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
        # Masked parameters have no leaves, but a place.
        filled = jax.tree.map(
            lambda _: 0, tree, is_leaf=lambda x: not jax.tree.leaves(x)
        )
        nodes = set(leaf_paths(filled))
        for place in sorted(unused):
            if _beginning(place, nodes) is None:
                raise ValueError(
                    f"{argument} must have values for parameters only, "
                    f"got one for {leaf_name(place)!r}."
                )
    return positions


def _has_no_leaves(tree: object) -> bool:
    return not jax.tree.leaves(tree)


def _beginning(
    path: tuple[str, ...], places: Container[tuple[str, ...]]
) -> tuple[str, ...] | None:
    """The place that a path begins with, if there is one."""
    starts = (path[:depth] for depth in range(len(path) + 1))
    return next((start for start in starts if start in places), None)
