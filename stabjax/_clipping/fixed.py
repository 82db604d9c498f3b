"""Bounds whose threshold is given: element-wise, global, per block."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from stabjax._clipping.threshold import Threshold, bounded_by, map_bounded
from stabjax._metrics import Report
from stabjax._norms import (
    ScaledNorm,
    check_order,
    norm_dtype,
    scaled_norm,
)
from stabjax._scaling import ClipFactor, apply_factor, as_scalar, cast_back, clip_factor


def clip(max_delta: Threshold) -> optax.GradientTransformation:
    r"""Clips every entry of the updates to ``[-max_delta, max_delta]``.

    :math:`u_i = \min(\max(g_i, -\delta), \delta)`. The one bound here that makes an
    infinite entry finite, as in Optax; NaN stays NaN.

    Args:
      max_delta: :math:`\delta \ge 0`: a number, an array that broadcasts with every
        leaf, or a schedule (count of updates -> number); traceable.

    Returns:
      A transformation; stateless unless ``max_delta`` is a schedule. A negative or NaN
      traced threshold gives NaN.

    Raises:
      ValueError: if ``max_delta`` is concrete and negative or NaN.
      TypeError: if it is no number, or a leaf is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> updates, _ = stabjax.clip(1.0).update(jnp.array([3.0, -4.0, 0.5]), None)
      >>> updates.tolist()
      [1.0, -1.0, 0.5]

    Source: Optax has the same name; `clip_grad_value_` in PyTorch.
    """

    def bound(
        updates: optax.Updates, params: optax.Params | None, limit: ArrayLike
    ) -> tuple[optax.Updates, jax.Array]:
        del params
        return map_bounded(lambda g: _clip_entries(g, jnp.asarray(limit)), updates)

    return bounded_by(max_delta, bound, name="clip", argument="max_delta")


def clip_by_global_norm(
    max_norm: Threshold, *, ord: float | None = None, axis_name: object = None
) -> optax.GradientTransformation:
    r"""Rescales the updates so that their global norm is at most ``max_norm``.

    :math:`u = g \cdot \min(1, c / \|g\|_p)`, the norm taken over all leaves together.
    Right for every finite gradient in every dtype, even where the norm itself exceeds
    it; below the threshold the updates are unchanged, bit for bit. The product is
    taken in float32 or wider. The derivative at a zero gradient is the identity's.

    Args:
      max_norm: :math:`c \ge 0`: a number, a scalar array (inf: never clip), or a
        schedule (count of updates -> number); traceable. Or a tree of numbers, one for
        each group of parameters, of which it is a prefix (``{"body": 1.0, "head":
        0.1}``): each group is then clipped by the norm of its own leaves. The other
        bounds by a given threshold take such trees too.
      ord: :math:`p`, the order of the norm, from 1 to inf (PyTorch's ``norm_type``);
        static (``static_args`` under ``optax.inject_hyperparams``). None: 2.
      axis_name: name of the mapped axis of ``shard_map`` along which every leaf is
        sharded, if any; static.

    Returns:
      A transformation; stateless unless ``max_norm`` is a schedule, and then its
      threshold, whether it clipped and the share of updates it clipped are metrics. A
      non-finite gradient gives NaN in every entry (in Optax zeros beside the NaN), and
      so does a traced threshold that is negative or NaN.

    Raises:
      ValueError: if ``max_norm`` is concrete and negative or NaN, or no scalar, or if
        ``ord`` is not a number from 1 to inf.
      TypeError: if ``max_norm`` is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_global_norm(1.0)
      >>> updates, _ = clipping.update({"w": jnp.array([3e30, 4e30])}, None)
      >>> [round(float(u), 4) for u in updates["w"]]
      [0.6, 0.8]

    Source: Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural
    networks, 2013.
    """
    order = check_order(2 if ord is None else ord)

    def measured(
        updates: optax.Updates, limit: ArrayLike
    ) -> tuple[ScaledNorm, jax.Array, ClipFactor]:
        norm = scaled_norm(updates, order, axis_name=axis_name)
        largest = as_scalar("max_norm", limit, norm.value.dtype)
        return norm, largest, clip_factor(norm, largest)

    def bound(
        updates: optax.Updates, params: optax.Params | None, limit: ArrayLike
    ) -> tuple[optax.Updates, jax.Array]:
        del params
        *_, by = measured(updates, limit)
        return jax.tree.map(lambda g: apply_factor(g, by), updates), by.exceeded

    def report(updates: optax.Updates, limit: ArrayLike) -> Report:
        norm, largest, by = measured(updates, limit)
        after = jnp.where(by.exceeded, largest, norm.product * by.first)
        return Report(norm.product, after, by.exceeded)

    return bounded_by(
        max_norm,
        bound,
        report if order == 2 and axis_name is None else None,
        name="clip_by_global_norm",
        argument="max_norm",
    )


def clip_by_block_norm(max_norm: Threshold) -> optax.GradientTransformation:
    r"""Rescales each leaf of the updates so that its norm is at most ``max_norm``.

    :math:`u_l = g_l \cdot \min(1, c / \|g_l\|_2)` for every leaf :math:`l`, with the
    care of :func:`stabjax.clip_by_global_norm`.

    Args:
      max_norm: :math:`c \ge 0`: a number, a scalar array, or a schedule (count of
        updates -> number); traceable.

    Returns:
      A transformation; stateless unless ``max_norm`` is a schedule. A leaf with a
      non-finite entry becomes NaN as a whole.

    Raises:
      ValueError: if ``max_norm`` is concrete and negative or NaN, or no scalar.
      TypeError: if it is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_block_norm(2.5)
      >>> updates, _ = clipping.update([jnp.array([3.0, 4.0]), jnp.array(1.0)], None)
      >>> [u.tolist() for u in updates]
      [[1.5, 2.0], 1.0]

    Source: `tf.clip_by_norm` of TensorFlow.
    """
    return _clip_blocks(max_norm, lambda leaf: 1.0, "clip_by_block_norm", "max_norm")


def clip_by_block_rms(threshold: Threshold) -> optax.GradientTransformation:
    r"""Rescales each leaf so that the root mean square of its entries is bounded.

    :math:`u_l = g_l / \max(1, \mathrm{rms}(g_l) / d)`, with :math:`\mathrm{rms}(g) =
    \|g\|_2 / \sqrt{n}` over the :math:`n` entries of a leaf. After
    ``optax.scale_by_factored_rms`` and before the learning rate, with 1, it is the
    update clipping of Adafactor.

    Args:
      threshold: :math:`d \ge 0`: a number, a scalar array, or a schedule (count of
        updates -> number); traceable.

    Returns:
      A transformation; stateless unless ``threshold`` is a schedule. A leaf with a
      non-finite entry becomes NaN as a whole.

    Raises:
      ValueError: if ``threshold`` is concrete and negative or NaN, or no scalar.
      TypeError: if it is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_block_rms(1.0)
      >>> updates, _ = clipping.update(jnp.array([3.0, 4.0]), None)
      >>> [round(float(u), 4) for u in updates]
      [0.8485, 1.1314]

    Source: Shazeer, Stern, Adafactor, 2018.
    """
    return _clip_blocks(
        threshold,
        lambda leaf: math.sqrt(jnp.size(leaf)),
        "clip_by_block_rms",
        "threshold",
    )


@partial(jax.jit, inline=True)
def _clip_entries(g: ArrayLike, limit: jax.Array) -> tuple[jax.Array, jax.Array]:
    g = jnp.asarray(g)
    if jnp.iscomplexobj(g):
        raise TypeError(
            f"clip: complex entries have no order, got a leaf of {g.dtype}; "
            "clip_by_global_norm and its kin bound them"
        )
    wide = g.astype(norm_dtype([g]))
    limit = jnp.broadcast_to(limit.astype(wide.dtype), g.shape)
    limit = jnp.where(limit >= 0, limit, jnp.nan)
    bounded = cast_back(jnp.clip(wide, -limit, limit), g.dtype)
    return bounded, jnp.any(abs(wide) > limit)


def _clip_blocks(
    threshold: Threshold, norm_of_one: Callable[[Any], float], name: str, argument: str
) -> optax.GradientTransformation:
    """Bounds the norm of each leaf by the threshold times `norm_of_one(leaf)`."""

    def bound_block(g: ArrayLike, limit: ArrayLike) -> tuple[jax.Array, jax.Array]:
        norm = scaled_norm(g)
        bound = as_scalar(argument, limit, norm.value.dtype) * norm_of_one(g)
        by = clip_factor(norm, bound)
        return apply_factor(g, by), by.exceeded

    def bound(
        updates: optax.Updates, params: optax.Params | None, limit: ArrayLike
    ) -> tuple[optax.Updates, jax.Array]:
        del params
        return map_bounded(lambda g: bound_block(g, limit), updates)

    return bounded_by(threshold, bound, name=name, argument=argument)
