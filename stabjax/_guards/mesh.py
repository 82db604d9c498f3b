"""Consistent decisions across shards and matching `cond` branch types."""

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
    """Returns the loss as a scalar, averaged over shards.

    Averages over all mesh axes along which the loss varies and over axes in
    `axis_name`. All shards therefore make the same decision.
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
    """Makes the results of two functions vary over the same `shard_map` axes."""
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
    # JAX 0.9 replaced `pvary` with `pcast`.
    older: Any = getattr(lax, "pvary", None)
    cast: Any = partial(lax.pcast, to="varying") if older is None else older
    varying: jax.Array = cast(x, missing)
    return varying
