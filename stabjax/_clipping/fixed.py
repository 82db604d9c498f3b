"""Clipping to a fixed or scheduled threshold, elementwise, globally or per leaf."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stabjax._arguments import as_number
from stabjax._axes import any_shard, global_size
from stabjax._clipping.threshold import (
    Group,
    Threshold,
    Thresholds,
    clip_to_threshold,
)
from stabjax._metrics import Report
from stabjax._norms import ScaledNorm, check_order, norm_dtype, norm_of_leaves
from stabjax._scaling import (
    ClipFactor,
    apply_factor,
    apply_factors,
    as_scalar,
    cast_back,
    clip_factor,
)
from stabjax._types import Number


def clip(
    max_delta: Threshold, *, axis_name: object = None
) -> optax.GradientTransformation:
    """Clips every element of the updates to `[-max_delta, max_delta]`.

        u_i = min(max(g_i, -max_delta), max_delta)

    This is the only stabjax transformation that makes infinite elements finite, as
    Optax does. NaN stays NaN.

    Args:
      max_delta: a number >= 0, an array that broadcasts with every leaf, a schedule
        (update count -> number), or a tree of these. See `stabjax.clip_by_global_norm`.
        **Traceable.**
      axis_name: see `stabjax.global_norm`. It affects the metrics of a schedule and of
        `stabjax.with_metrics`, but not the updates. **Static.**

    Returns:
      A transformation. It is stateless unless `max_delta` is a schedule. A traced
      threshold that is negative or NaN turns the updates into NaN.

    Raises:
      ValueError: If `max_delta` is concrete and negative or NaN, or `axis_name`
        contradicts the type of a leaf.
      TypeError: If `max_delta` is not a number, or a leaf is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> updates, _ = stabjax.clip(1.0).update(jnp.array([3.0, -4.0, 0.5]), None)
      >>> updates.tolist()
      [1.0, -1.0, 0.5]
    """
    return clip_elements("clip", Thresholds("max_delta", max_delta, axis_name))


def clip_by_global_norm(
    max_norm: Threshold, *, ord: float | None = None, axis_name: object = None
) -> optax.GradientTransformation:
    """Rescales updates to have a global norm of at most `max_norm`.

        u = g min(1, max_norm / |g|_p)

    The global norm is taken over all leaves together. It is correct for all finite
    gradients in any dtype, even if the norm itself exceeds the dtype's range. Below the
    threshold, the updates are unchanged bit for bit. The scaling is computed in float32
    or wider. At a zero gradient, the derivative is the identity.

    Args:
      max_norm: a number >= 0 (inf disables clipping), a scalar array, a schedule
        (update count -> number) or a tree of these. Schedule values in (-1e-6, 0) count
        as 0. In a tree such as `{"body": 1.0, "head": 0.1}`, each key applies to the
        parameters whose path begins with it, independent of container types, and each
        group of parameters is clipped by its own norm. A callable is a schedule unless
        it is a pytree with leaves, such as an Equinox module of thresholds. These rules
        apply to all thresholds in stabjax. **Traceable.**
      ord: order p of the norm, in [1, inf], like PyTorch's `norm_type`. None means 2.
        Add it to `static_args` when using `optax.inject_hyperparams`. **Static.**
      axis_name: only needed inside `vmap`, `pmap` or `shard_map` for axes that array
        types do not track. See `stabjax.global_norm`. **Static.**

    Returns:
      A transformation. It is stateless unless `max_norm` is a schedule, in which case
      its metrics are the threshold, whether the update was clipped, and the fraction of
      clipped updates. A non-finite gradient turns every element into NaN (Optax keeps
      zeros next to the NaN). So does a traced threshold that is negative or NaN.

    Raises:
      ValueError: If `max_norm` is concrete and negative or NaN, or not a scalar, if
        `ord` is out of range, or if `axis_name` contradicts the type of a leaf.
      TypeError: If `max_norm` is not a number, or a leaf is not an array.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_global_norm(1.0)
      >>> updates, _ = clipping.update({"w": jnp.array([3e30, 4e30])}, None)
      >>> [round(float(u), 4) for u in updates["w"]]
      [0.6, 0.8]

    References:
      Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural
      networks, 2013, https://arxiv.org/abs/1211.5063
    """
    order = check_order(2 if ord is None else ord)
    thresholds = Thresholds("max_norm", max_norm, axis_name)

    def measure(
        group: Group, max_norm: Number
    ) -> tuple[ScaledNorm, jax.Array, ClipFactor]:
        norm = norm_of_leaves(group.updates, group.axes, order, False)
        limit = as_scalar("max_norm", max_norm, norm.value.dtype)
        return norm, limit, clip_factor(norm, limit)

    def bound(group: Group, max_norm: Number) -> tuple[list[jax.Array], jax.Array]:
        _, _, factor = measure(group, max_norm)
        return [apply_factor(g, factor) for g in group.updates], factor.exceeded

    def report(group: Group, max_norm: Number) -> Report:
        norm, limit, factor = measure(group, max_norm)
        after = jnp.where(factor.exceeded, limit, norm.product * factor.first)
        return Report(norm.product, after, factor.exceeded)

    return clip_to_threshold(
        "clip_by_global_norm", thresholds, bound, report if order == 2 else None
    )


def clip_by_block_norm(
    max_norm: Threshold, *, axis_name: object = None
) -> optax.GradientTransformation:
    """Rescales each leaf of the updates to have a norm of at most `max_norm`.

        u_l = g_l min(1, max_norm / |g_l|_2)  for every leaf l

    Uses the same overflow-safe arithmetic as `stabjax.clip_by_global_norm`.

    Args:
      max_norm: a number >= 0, a scalar array, a schedule (update count -> number), or a
        tree of these. See `stabjax.clip_by_global_norm`. **Traceable.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation. It is stateless unless `max_norm` is a schedule. If an element
      of a leaf is non-finite, the entire leaf becomes NaN.

    Raises:
      ValueError: If `max_norm` is concrete and negative or NaN, or not a scalar, or if
        `axis_name` contradicts the type of a leaf.
      TypeError: If `max_norm` is not a number, or a leaf is not an array.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_block_norm(2.5)
      >>> updates, _ = clipping.update([jnp.array([3.0, 4.0]), jnp.array(1.0)], None)
      >>> [u.tolist() for u in updates]
      [[1.5, 2.0], 1.0]
    """
    thresholds = Thresholds("max_norm", max_norm, axis_name)
    return _clip_blocks("clip_by_block_norm", thresholds, lambda size: 1.0)


def clip_by_block_rms(
    threshold: Threshold, *, axis_name: object = None
) -> optax.GradientTransformation:
    """Rescales each leaf to have a root mean square of at most `threshold`.

        u_l = g_l / max(1, rms(g_l) / threshold),  rms(g) = |g|_2 / sqrt(n)

    Here n is the number of elements of the leaf. This is Adafactor's update clipping if
    `threshold` is 1 and the transformation is placed between
    `optax.scale_by_factored_rms` and the learning rate.

    Args:
      threshold: a number >= 0, a scalar array, a schedule (update count -> number), or
        a tree of these. See `stabjax.clip_by_global_norm`. **Traceable.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation. It is stateless unless `threshold` is a schedule. If an element
      of a leaf is non-finite, the entire leaf becomes NaN.

    Raises:
      ValueError: If `threshold` is concrete and negative or NaN, or not a scalar, or if
        `axis_name` contradicts the type of a leaf.
      TypeError: If `threshold` is not a number, or a leaf is not an array.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_block_rms(1.0)
      >>> updates, _ = clipping.update(jnp.array([3.0, 4.0]), None)
      >>> [round(float(u), 4) for u in updates]
      [0.8485, 1.1314]

    References:
      Shazeer and Stern, Adafactor: adaptive learning rates with sublinear memory cost,
      2018, https://arxiv.org/abs/1804.04235
    """
    thresholds = Thresholds("threshold", threshold, axis_name)
    return _clip_blocks("clip_by_block_rms", thresholds, math.sqrt)


def clip_elements(name: str, thresholds: Thresholds) -> optax.GradientTransformation:
    """Builds the transformation `name`, which clips each element to a threshold."""

    def bound(group: Group, threshold: Number) -> tuple[list[jax.Array], jax.Array]:
        limit = jnp.asarray(as_number(thresholds.argument, threshold))
        pairs = [_clip_elements(g, limit) for g in group.updates]
        exceeded = jax.tree.reduce(
            jnp.logical_or, [flag for _, flag in pairs], jnp.zeros((), bool)
        )
        return [x for x, _ in pairs], any_shard(exceeded, group.axes)

    return clip_to_threshold(name, thresholds, bound)


@partial(jax.jit, inline=True)
def _clip_elements(g: jax.Array, limit: jax.Array) -> tuple[jax.Array, jax.Array]:
    if jnp.iscomplexobj(g):
        raise TypeError(
            f"clip does not support complex arrays, got {g.dtype}. "
            "Use clip_by_global_norm."
        )
    wide = g.astype(norm_dtype([g]))
    limit = jnp.broadcast_to(limit.astype(wide.dtype), g.shape)
    limit = jnp.where(limit >= 0, limit, jnp.nan)
    bounded = cast_back(jnp.clip(wide, -limit, limit), g.dtype)
    return bounded, jnp.any(abs(wide) > limit)


def _clip_blocks(
    name: str, thresholds: Thresholds, norm_of_ones: Callable[[int], float]
) -> optax.GradientTransformation:
    """Clips each leaf's norm to the threshold, scaled by a function of its size."""

    def bound(group: Group, threshold: Number) -> tuple[list[jax.Array], jax.Array]:
        norms = norm_of_leaves(group.updates, group.axes, 2, True)
        dtype = norms.value.dtype
        sizes = map(global_size, group.updates, group.axes)
        ones = np.array([norm_of_ones(max(size, 1)) for size in sizes], dtype)
        limits = as_scalar(thresholds.argument, threshold, dtype) * ones
        factors = clip_factor(norms, limits)
        return apply_factors(group.updates, factors), jnp.any(factors.exceeded)

    return clip_to_threshold(name, thresholds, bound)
