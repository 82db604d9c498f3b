"""Decisions inside `shard_map`: equal on all shards, and of one type in a `cond`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from stabjax._arguments import as_number
from stabjax._axes import varying_axes
from stabjax._types import Number


def scalar_loss(value: Number, dtype: Any, axis_name: object) -> jax.Array:
    """The loss as a scalar: its mean over the shards, so that all decide alike.

    The mean is over the axes along which it varies, and over those that are named.
    """
    loss = jnp.asarray(as_number("value", value))
    if loss.size != 1:
        raise ValueError(f"value must be a scalar, got an array of shape {loss.shape}.")
    named: set[Any] = set(jax.tree.leaves(axis_name))
    axes = tuple(sorted(named | varying_axes(loss), key=str))
    loss = loss.reshape(()).astype(dtype)
    mean: jax.Array = lax.pmean(loss, axes) if axes else loss
    return mean


def of_one_type(
    first: Callable[..., Any], second: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Two functions whose results vary along the same axes of `shard_map`."""
    shapes = [jax.eval_shape(branch, *arguments) for branch in (first, second)]
    axes = jax.tree.map(lambda x, y: varying_axes(x) | varying_axes(y), *shapes)

    def with_axes(branch: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: jax.tree.map(_varying, branch(*args), axes)

    if not any(jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, frozenset))):
        return first, second
    return with_axes(first), with_axes(second)


def _varying(x: jax.Array, axes: frozenset[Any]) -> jax.Array:
    missing = tuple(sorted(axes - varying_axes(x), key=str))
    if not missing:
        return x
    # `pcast` replaced `pvary` in jax 0.9.
    older: Any = getattr(lax, "pvary", None)
    cast: Any = partial(lax.pcast, to="varying") if older is None else older
    varying: jax.Array = cast(x, missing)
    return varying
