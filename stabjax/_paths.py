"""The paths of a tree's leaves: one name for a parameter, whatever holds it."""

from collections.abc import Sequence

import jax
import numpy as np


def leaf_paths(tree: object) -> list[tuple[str, ...]]:
    """The path of each leaf, in the order of `jax.tree.leaves`.

    A variable of Flax NNX and the array that stands for it in gradients have the same.
    """
    paths = []
    for path, node in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_variable):
        outer = tuple(_key(entry) for entry in path)
        for inner, _ in jax.tree_util.tree_leaves_with_path(node):
            paths.append((*outer, *(_key(entry) for entry in inner[1:])))
    return paths


def leaf_name(path: Sequence[str]) -> str:
    """The path of a leaf as text: `dense/kernel`."""
    return "/".join(path)


def check_arrays(argument: str, tree: object) -> None:
    """Raises a TypeError that names the first leaf that is not an array or a number."""
    for path, leaf in zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True):
        number = isinstance(leaf, bool | int | float | complex | np.number)
        if not number and not hasattr(leaf, "dtype"):
            raise TypeError(
                f"{argument} must hold arrays, got {leaf!r} at {leaf_name(path)!r}. "
                "Replace what is not an array by None, as equinox.filter does."
            )


def _is_variable(node: object) -> bool:
    """Whether a node is a variable of Flax NNX, which need not be installed."""
    return any(
        kind.__name__ == "Variable" and kind.__module__.startswith("flax.nnx")
        for kind in type(node).__mro__
    )


def _key(entry: object) -> str:
    """The field, key or index in an entry of a path."""
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
