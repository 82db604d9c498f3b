"""Clipping relative to a moving average of past norms, taken after clipping."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from stabjax._arguments import check_choice
from stabjax._clipping.history import (
    Streak,
    clip_by_history,
    extend_streak,
    init_streak,
    with_eps,
)
from stabjax._clipping.numbers import as_finite, checked
from stabjax._norms import scaled_norm
from stabjax._types import Number


class NormLevel(NamedTuple):
    """The reference level for each norm."""

    norm_level: jax.Array
    level_seen: jax.Array  # int32: number of norms in the average
    level_streak: Streak | None  # None for methods without patience


def adagc(
    relative_clip: Number = 1.04,
    decay: Number = 0.99,
    max_norm: Number = 1.0,
    *,
    warmup_steps: Number = 100,
    patience: Number = 100,
    reference: bool = False,
    variant: Literal["megatron", "paddle"] = "megatron",
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Clips each leaf's norm to a multiple of its moving average (AdaGC).

    Let `n` be a leaf's norm and `N` the global norm. During warmup, the leaf is
    multiplied by `h = min(1, max_norm / N)`, and its level `a` is the smallest `h n` so
    far. After warmup,

        u = g min(1, relative_clip a / n)
        a = decay a + (1 - decay) ||u||

    Set `reference=True` to reproduce the authors' implementation, which differs in four
    ways. It adds 1e-6 (PaddlePaddle: 1e-8) to the norm in the denominator. Zero norms
    are included in the average, and a zero norm during warmup permanently stops
    updates of the leaf. `patience` is inf. The PaddlePaddle variant also has a warmup
    that is one update longer and uses the smallest `n`.

    Args:
      relative_clip: multiple of the average, >= 0. **Traceable.**
      decay: decay rate of the average, in [0, 1]. **Traceable.**
      max_norm: maximum global norm during warmup, >= 0. **Traceable.**
      warmup_steps: number of warmup updates, counted separately for each leaf.
        **Traceable.**
      patience: number of consecutive clipped updates of a leaf that indicates a change
        of scale. The level is then set to the smallest norm among them. Use inf to
        disable. **Traceable.**
      reference: whether to reproduce the authors' implementation. **Static.**
      variant: which of the authors' implementations to reproduce. **Static.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation with metrics for the norm, the number of clipped leaves, whether
      any leaf was clipped, and the fraction of clipped updates. A non-finite leaf
      becomes NaN (during warmup, all leaves do). Non-finite updates and zero norms of
      leaves leave the state unchanged. If gradients become permanently larger by any
      factor, clipping stops after at most `2 patience` updates. (The authors' threshold
      grows by a factor of `1 + (1 - decay) (relative_clip - 1)` per update and takes
      1733 updates to double.) If gradients become smaller by a factor of `r`, the
      threshold adapts in about `ln r / (1 - decay)` updates.

    Raises:
      ValueError: If a concrete number is out of range, or `variant` is unknown.
      TypeError: If an argument is not a number.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> tx = stabjax.adagc(warmup_steps=2)
      >>> state, update = tx.init([jnp.zeros(2), jnp.zeros(2)]), jax.jit(tx.update)
      >>> for a, b in ((3.0, 4.0), (0.6, 0.3), (0.5, 1.0)):
      ...     updates, state = update([jnp.array([0, a]), jnp.array([0, b])], state)
      ...     print([round(float(u[1]), 3) for u in updates])
      [0.6, 0.8]
      [0.6, 0.3]
      [0.5, 0.312]

    References:
      Wang et al., AdaGC: Improving Training Stability for Large Language Model
      Pretraining, 2025. https://arxiv.org/abs/2502.11034
    """
    scalars = checked(
        relative_clip=(relative_clip, ">= 0"),
        decay=(decay, "in [0, 1]"),
        max_norm=(max_norm, ">= 0"),
        warmup_steps=(warmup_steps, ">= 0"),
        patience=(math.inf if reference else patience, ">= 0"),
    )
    check_choice("variant", variant, ("megatron", "paddle"))
    paddle = reference and variant == "paddle"
    eps = (1e-8 if paddle else 1e-6) if reference else 0.0

    def rule(norms: jax.Array, past: NormLevel) -> tuple[jax.Array, NormLevel]:
        relative, beta, max_norm, steps, patience = as_finite(scalars(norms.dtype))
        known = past.level_seen > 0
        warming_up = past.level_seen.astype(norms.dtype) < steps + int(paddle)
        bound = jnp.where(known, relative * past.norm_level, jnp.inf)
        warmup_bound = _bound_by_global_norm(norms, max_norm, eps)
        clipped = ~warming_up & (norms > bound)
        # Paddle takes the smallest norm before warmup clipping, Megatron after.
        least = norms if paddle else warmup_bound
        least = jnp.where(known, jnp.minimum(past.norm_level, least), least)
        average = _average(past, jnp.minimum(norms, bound), beta)
        new = _with_level(past, jnp.where(warming_up, least, average))
        new = _with_streak(new, clipped, norms, patience)
        bound = jnp.where(clipped, with_eps(bound, norms, eps), bound)
        return jnp.where(warming_up, warmup_bound, bound), new

    return clip_by_history(
        "adagc",
        _init_with_streak,
        rule,
        per_leaf=True,
        reference=reference,
        axis_name=axis_name,
    )


def clip_by_norm_ratio(
    max_norm_ratio: Number,
    decay: Number = 0.95,
    *,
    per_leaf: bool = True,
    patience: Number = 50,
    reference: bool = False,
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Clips norms to a multiple of their moving average.

    Let `n` be the norm of a leaf (or the global norm) and `a` the moving average of
    norms after clipping, initialized to the norm of the first gradient:

        u = g min(1, max_norm_ratio a / n)
        a = decay a + (1 - decay) ||u||

    Set `reference=True` to reproduce OLMo, which differs in four ways: the average
    starts with the second update, 1e-6 is added to the norm in the denominator, zero
    norms are included, and `patience` is inf.

    Args:
      max_norm_ratio: multiple of the average, >= 0. **Traceable.**
      decay: decay rate of the average, in [0, 1]. OLMo uses the larger of Adam's two
        decay rates. **Traceable.**
      per_leaf: whether to use a separate norm and average for each leaf. **Static.**
      patience: number of consecutive clipped updates of a norm that indicates a change
        of scale. The average is then set to the smallest norm among them. Use inf to
        disable. **Traceable.**
      reference: whether to reproduce OLMo. **Static.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation with metrics for the norm, the threshold (with `per_leaf`, the
      number of clipped leaves), whether the update was clipped, and the fraction of
      clipped updates. With `per_leaf`, a non-finite gradient turns its leaf into NaN.
      Otherwise, it turns all updates into NaN. Non-finite gradients and zero norms
      leave the state unchanged. If gradients become permanently larger by any factor,
      clipping stops after at most `2 patience` updates. (OLMo's average grows by a
      factor of `1 + (1 - decay) (max_norm_ratio - 1)` per update.) If gradients become
      smaller by a factor of `f`, the threshold adapts in about `ln f / (1 - decay)`
      updates.

    Raises:
      ValueError: If a concrete number is out of range.
      TypeError: If an argument is not a number.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> tx = stabjax.clip_by_norm_ratio(2.0, decay=0.5)
      >>> state, update = tx.init(jnp.zeros(2)), jax.jit(tx.update)
      >>> for norm in (1.0, 8.0, 8.0):
      ...     updates, state = update(jnp.array([0.0, norm]), state)
      ...     print(float(updates[1]))
      1.0
      2.0
      3.0

    References:
      OLMo, `max_grad_norm_ratio`, 2024. https://github.com/allenai/OLMo
    """
    scalars = checked(
        max_norm_ratio=(max_norm_ratio, ">= 0"),
        decay=(decay, "in [0, 1]"),
        patience=(math.inf if reference else patience, ">= 0"),
    )

    def rule(norms: jax.Array, past: NormLevel) -> tuple[jax.Array, NormLevel]:
        max_norm_ratio, beta, patience = as_finite(scalars(norms.dtype))
        # OLMo overwrites its initial average with the second norm.
        known = past.level_seen > int(reference)
        past = past._replace(norm_level=jnp.where(known, past.norm_level, norms))
        unsoftened = max_norm_ratio * past.norm_level
        bound = with_eps(unsoftened, norms, 1e-6 if reference else 0.0)
        new = _with_level(past, _average(past, jnp.minimum(norms, bound), beta))
        return bound, _with_streak(new, known & (norms > unsoftened), norms, patience)

    return clip_by_history(
        "clip_by_norm_ratio",
        _init_with_streak,
        rule,
        per_leaf=per_leaf,
        reference=reference,
        axis_name=axis_name,
    )


def limit_norm_growth(
    max_growth: Number = 1.01,
    min_norm: Number = 0.0,
    *,
    per_leaf: bool = True,
    reference: bool = False,
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Limits the growth of each norm from one update to the next.

    Let `g_t` be the gradient of a leaf (or of all leaves). The first update is not
    clipped. Afterwards,

        u_t = g_t min(1, max_growth max(||u_{t-1}||, min_norm) / ||g_t||)

    APOLLO applies this rule to the scaled gradient. Fira applies it to the scaled
    component of the gradient outside a subspace. Set `reference=True` to reproduce
    Fira, which differs in two ways: 1e-8 is added to the previous norm, and a zero norm
    counts as a previous norm. (Returning to a norm of 1 then takes about 1400 updates.)

    Args:
      max_growth: maximum ratio of consecutive norms, >= 0. **Traceable.**
      min_norm: norms up to this value may grow freely, >= 0. **Traceable.**
      per_leaf: whether to use a separate norm for each leaf. **Static.**
      reference: whether to reproduce Fira. **Static.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation with metrics for the norm, the threshold (with `per_leaf`, the
      number of clipped leaves), whether the update was clipped, and the fraction of
      clipped updates. With `per_leaf`, a non-finite gradient turns its leaf into NaN.
      Otherwise, it turns all updates into NaN. Non-finite gradients and zero norms
      leave the state unchanged. If gradients become permanently larger by a factor of
      `r`, the threshold adapts in `ln r / ln max_growth` updates (463 for a factor of
      100). If they become smaller, the threshold adapts immediately.

    Raises:
      ValueError: If a concrete number is negative or NaN.
      TypeError: If an argument is not a number.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> tx = stabjax.limit_norm_growth(1.5)
      >>> state, update = tx.init(jnp.zeros(2)), jax.jit(tx.update)
      >>> for norm in (1.0, 8.0, 8.0, 0.5):
      ...     updates, state = update(jnp.array([0.0, norm]), state)
      ...     print(float(updates[1]))
      1.0
      1.5
      2.25
      0.5

    References:
      Chen et al., Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank
      Constraint?, 2024. https://arxiv.org/abs/2410.01623
      Zhu et al., APOLLO: SGD-like Memory, AdamW-level Performance, 2024.
      https://arxiv.org/abs/2412.05270
    """
    scalars = checked(max_growth=(max_growth, ">= 0"), min_norm=(min_norm, ">= 0"))
    eps = 1e-8 if reference else 0.0

    def rule(norms: jax.Array, past: NormLevel) -> tuple[jax.Array, NormLevel]:
        max_growth, min_norm = as_finite(scalars(norms.dtype))
        previous = jnp.maximum(past.norm_level + eps, min_norm)
        bound = jnp.where(past.level_seen > 0, max_growth * previous, jnp.inf)
        return bound, _with_level(past, jnp.minimum(norms, bound))

    return clip_by_history(
        "limit_norm_growth",
        _init,
        rule,
        per_leaf=per_leaf,
        reference=reference,
        axis_name=axis_name,
    )


def _init(number: int, dtype: DTypeLike) -> NormLevel:
    return NormLevel(jnp.zeros(number, dtype), jnp.zeros(number, jnp.int32), None)


def _init_with_streak(number: int, dtype: DTypeLike) -> NormLevel:
    return _init(number, dtype)._replace(level_streak=init_streak(number, dtype))


def _average(past: NormLevel, norms: jax.Array, decay: jax.Array) -> jax.Array:
    # This form has no subnormal intermediate values, which devices flush to zero.
    return past.norm_level + (1 - decay) * (norms - past.norm_level)


def _with_level(past: NormLevel, level: jax.Array) -> NormLevel:
    seen = optax.safe_increment(past.level_seen)
    return past._replace(norm_level=level, level_seen=seen)


def _with_streak(
    new: NormLevel, clipped: jax.Array, norms: jax.Array, patience: jax.Array
) -> NormLevel:
    """Sets the level to the smallest norm of a streak that has ended."""
    if new.level_streak is None:
        return new
    streak, ended, least = extend_streak(new.level_streak, clipped, norms, patience)
    level = jnp.where(ended, least, new.norm_level)
    return new._replace(norm_level=level, level_streak=streak)


def _bound_by_global_norm(
    norms: jax.Array, max_norm: jax.Array, eps: float
) -> jax.Array:
    """Multiplies each norm by min(1, max_norm / (global norm + eps))."""
    total = scaled_norm(norms)
    k = 1 / total.unit
    positive = norms > 0
    divisor = jnp.where(positive, total.value + eps * k, 1)
    return jnp.minimum(norms, max_norm * jnp.where(positive, norms * k / divisor, 1))
