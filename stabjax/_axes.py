"""Mapped axes over which leaves are sharded, and reductions over them."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from stabjax._paths import check_arrays, leaf_name, leaf_paths, match_prefix
from stabjax._types import AxisName

# Names of mapped axes to reduce over.
Axes: TypeAlias = tuple[AxisName, ...]


def leaf_axes(
    argument: str, tree: object, axis_name: object, *, some: bool = False
) -> tuple[Axes, ...]:
    """Returns the mapped axes over which each leaf of a tree is sharded.

    Args:
      argument: name of the tree in error messages.
      tree: tree of arrays. Inside `shard_map`, array types list the mesh axes they vary
        over.
      axis_name: None to use the axes listed in the types, a name or tuple of names that
        includes those axes, or a prefix tree of `tree` with the exact axes of each
        leaf.
      some: whether leaves may vary over axes that are not in `axis_name`.

    Raises:
      ValueError: If the types contradict `axis_name`.
      TypeError: If a leaf is not an array or a number.
    """
    leaves = jax.tree.leaves(tree)
    try:
        varying = [varying_axes(leaf) for leaf in leaves]
    except TypeError:
        check_arrays(argument, tree)
        raise
    exact = not _is_axes(axis_name)
    if exact:
        values = jax.tree.leaves(axis_name, is_leaf=_is_axes)
        positions = match_prefix("axis_name", axis_name, tree, _is_axes)
        given = [values[position] for position in positions]
    else:
        given = [axis_name] * len(leaves)
    typed: dict[AxisName, bool] = {}
    axes = []
    for i, (names, shown) in enumerate(zip(given, varying, strict=True)):
        if names is None:
            axes.append(tuple(sorted(shown, key=str)))
            continue
        names = names if type(names) is tuple else (names,)
        for name in names:
            if name not in typed:
                typed[name] = _shows_in_types(name)
        stated = {name for name in names if typed[name]}
        beyond = shown - stated and (exact or names) and not some
        if beyond or (exact and stated - shown):
            raise ValueError(
                f"axis_name must contain the mesh axes {sorted(map(str, shown))} of "
                f"{leaf_name((argument, *leaf_paths(tree)[i]))!r}, got {names!r}."
            )
        axes.append(tuple(n for n in names if n in shown or not typed[n]))
    return tuple(axes)


def over_devices(x: jax.Array, axes: Axes) -> jax.Array:
    """Sums an array over mapped axes."""
    return lax.psum(x, axes) if axes else x


def global_size(x: jax.Array, axes: Axes) -> int:
    """Returns the global size of an array that is sharded over mapped axes."""
    size: int = x.size * (lax.psum(1, axes) if axes else 1)
    return size


def any_shard(flag: jax.Array, axes: Sequence[Axes] = ()) -> jax.Array:
    """Returns whether a flag is true on any device along its own axes or `axes`."""
    given = {name for names in axes for name in names if not _shows_in_types(name)}
    names = tuple(sorted(given | varying_axes(flag), key=str))
    return over_devices(flag.astype(jnp.int32), names) > 0 if names else flag


def varying_axes(x: ArrayLike | jax.ShapeDtypeStruct) -> frozenset[AxisName]:
    """Returns the `shard_map` mesh axes over which an array varies.

    The type attribute is called `vma` in JAX 0.7 and `manual_axis_type.varying` in JAX
    0.10.
    """
    kind = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    manual = getattr(kind, "manual_axis_type", None)
    varying = getattr(kind, "vma", None) if manual is None else manual.varying
    return frozenset(varying or ())


def _shows_in_types(name: AxisName) -> bool:
    """Returns whether types track an axis.

    Types do not track `vmap` axes, or any axes with `check_vma=False`.
    """
    # `axis_index` varies over its axis if types track that axis.
    return name in varying_axes(lax.axis_index(name))


def _is_axes(value: object) -> bool:
    """Returns whether a value is None, an axis name or a tuple of names."""
    if type(value) is tuple:
        return all(name is not None and _is_axes(name) for name in value)
    return value is None or jax.tree_util.all_leaves([value])


def reduced(
    parts: Sequence[jax.Array],
    axes: tuple[Axes, ...],
    apart: bool,
    *,
    largest: bool = False,
) -> jax.Array:
    """Reduces one number per leaf by sum (or maximum) over devices.

    Also reduces over leaves along axis 0 unless `apart`. Issues one collective for each
    set of axes instead of one for each leaf.
    """

    def joined(numbers: list[jax.Array]) -> jax.Array:
        return jnp.max(jnp.stack(numbers)) if largest else sum(numbers[1:], numbers[0])

    whole: Callable[[jax.Array, Axes], jax.Array] = lax.pmax if largest else lax.psum
    groups: dict[Axes, list[int]] = {}
    for i, names in enumerate(axes):
        groups.setdefault(names, []).append(i)
    found = []
    for names, members in groups.items():
        group = [parts[i] for i in members]
        local = jnp.stack(group) if apart else joined(group)
        found.append(whole(local, names) if names else local)
    if not apart:
        return joined(found)
    order = np.argsort(np.concatenate(list(groups.values())))
    return found[0] if len(found) == 1 else jnp.concatenate(found)[order]
