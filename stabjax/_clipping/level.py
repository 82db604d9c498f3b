"""Bounds relative to a running level of past norms, which only clipped norms enter."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from stabjax._clipping.history import (
    Streak,
    bounded_by_history,
    lengthened,
    no_streak,
    scalars,
    softened,
)
from stabjax._clipping.threshold import check_between
from stabjax._norms import scaled_norm


class NormLevel(NamedTuple):
    """What each norm is compared with."""

    norm_level: jax.Array
    level_seen: jax.Array  # int32: norms that entered
    level_streak: Any  # a Streak, or None where nothing follows from one


def adagc(
    relative_clip: ArrayLike = 1.04,
    decay: ArrayLike = 0.99,
    max_norm: ArrayLike = 1.0,
    warmup_steps: ArrayLike = 100,
    *,
    patience: ArrayLike = 100,
    reference: Literal["megatron", "paddle"] | None = None,
) -> optax.GradientTransformation:
    r"""Bounds each leaf's norm by a multiple of its own running average: AdaGC.

    With the norm :math:`n_i` of leaf :math:`i` and the global norm :math:`N`: in the
    first :math:`T` updates the leaf is scaled by :math:`h = \min(1, c / N)`, and
    :math:`\gamma_i` is the least :math:`h n_i` among them. Afterwards :math:`u_i = g_i
    \min(1, \lambda \gamma_i / n_i)` and :math:`\gamma_i' = \beta \gamma_i + (1 - \beta)
    \|u_i\|`. Each leaf counts its own :math:`T` updates.

    Args:
      relative_clip: :math:`\lambda \ge 0`; traceable.
      decay: :math:`\beta`, from 0 to 1; traceable.
      max_norm: :math:`c \ge 0`, the global bound of the warm-up; traceable.
      warmup_steps: :math:`T`, updates; traceable.
      patience: after this many clips of a leaf in a row its scale has changed, see
        below; inf: never, as the authors have it; traceable.
      reference: whose numbers to give where they differ, static. "megatron": 1e-6 is
        added to the norm that divides, zero norms enter, ``patience`` is inf. "paddle":
        so too, but 1e-8, the warm-up has one update more and takes the least
        :math:`n_i`.

    Returns:
      A transformation whose state has metrics: the norm, how many leaves were clipped,
      whether and how often any was. A non-finite leaf becomes NaN, in the warm-up all
      do; such an update does not enter, nor does the zero norm of a leaf (with the
      authors either, in the warm-up, stops that leaf for ever): the next update is
      clipped as if it had not been. When ``patience`` clips of a leaf follow one
      another, :math:`\gamma` becomes the smallest of their norms: so a lasting rise of
      its scale, by any factor, is let through after at most twice as many updates (the
      authors' threshold grows by :math:`1 + (1 - \beta)(\lambda - 1)` in an update,
      twofold in 1733). After a fall by a factor :math:`r` it has followed in about
      :math:`\ln r / (1 - \beta)` updates.

    Raises:
      ValueError: if a number is concrete and out of range, or ``reference`` is unknown.
      TypeError: if a number is none.

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

    Source: Wang et al., AdaGC: improving training stability for large language model
    pretraining, 2025.
    """
    numbers = {
        "relative_clip": relative_clip,
        "decay": decay,
        "max_norm": max_norm,
        "warmup_steps": warmup_steps,
        "patience": math.inf if reference else patience,
    }
    _check(numbers)
    if reference not in (None, "megatron", "paddle"):
        raise ValueError(
            f"reference must be None, 'megatron' or 'paddle', got {reference!r}"
        )
    raw = reference == "paddle"
    eps = {None: 0.0, "megatron": 1e-6, "paddle": 1e-8}[reference]

    def rule(norms: jax.Array, past: NormLevel) -> tuple[jax.Array, NormLevel]:
        relative, beta, most, steps, long = scalars(numbers, norms.dtype)
        known = past.level_seen > 0
        warming = past.level_seen.astype(norms.dtype) < steps + int(raw)
        bound = jnp.where(known, relative * past.norm_level, jnp.inf)
        globally = _share_of(most, norms, eps)
        clipped = ~warming & (norms > bound)
        limit = jnp.where(clipped, softened(bound, norms, eps), bound)
        start = norms if raw else globally
        start = jnp.where(known, jnp.minimum(past.norm_level, start), start)
        level = _averaged(past, jnp.minimum(norms, bound), beta)
        entered = _entered(past, jnp.where(warming, start, level))
        entered = _escaped(entered, clipped, norms, long)
        return jnp.where(warming, globally, limit), entered

    return bounded_by_history(
        "adagc",
        _no_level_or_streak,
        rule,
        per_leaf=True,
        zeros_enter=reference is not None,
    )


def clip_by_norm_ratio(
    max_norm_ratio: ArrayLike,
    decay: ArrayLike = 0.95,
    *,
    per_leaf: bool = True,
    patience: ArrayLike = 50,
    reference: bool = False,
) -> optax.GradientTransformation:
    r"""Bounds each norm by a multiple of the running average of those before.

    :math:`u = g \cdot \min(1, r a / n)` with the norm :math:`n` of a leaf (or of all)
    and the average :math:`a` of what was let through: :math:`a' = \beta a + (1 - \beta)
    \|u\|`, and :math:`a = n` at first.

    Args:
      max_norm_ratio: :math:`r \ge 0`; traceable.
      decay: :math:`\beta`, from 0 to 1; OLMo takes the larger of Adam's; traceable.
      per_leaf: whether each leaf has its own norm and average; static.
      patience: after this many clips of a norm in a row its scale has changed, see
        below; inf: never, as the authors have it; traceable.
      reference: whether to give OLMo's numbers where they differ: the average starts
        with the second update, 1e-6 is added to the norm that divides, zero norms
        enter, and ``patience`` is inf; static.

    Returns:
      A transformation whose state has metrics: the norm, the threshold or how many
      leaves were clipped, whether and how often any was. A non-finite gradient gives
      NaN, in the leaf if ``per_leaf``, else everywhere, and does not enter, nor does a
      zero norm: the next update is clipped as if it had not been. When ``patience``
      clips of a norm follow one another, the average becomes the smallest of them: so a
      lasting rise of the scale, by any factor, is let through after at most twice as
      many updates (OLMo's average grows by :math:`1 + (1 - \beta)(r - 1)` in an
      update). After a fall by a factor :math:`f` it has followed in about :math:`\ln f
      / (1 - \beta)` updates.

    Raises:
      ValueError: if a number is concrete and out of range.
      TypeError: if a number is none.

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

    Source: OLMo, `max_grad_norm_ratio`, 2024.
    """
    numbers = {
        "max_norm_ratio": max_norm_ratio,
        "decay": decay,
        "patience": math.inf if reference else patience,
    }
    _check(numbers)

    def rule(norms: jax.Array, past: NormLevel) -> tuple[jax.Array, NormLevel]:
        relative, beta, long = scalars(numbers, norms.dtype)
        # With OLMo the first average is forgotten.
        known = past.level_seen > int(reference)
        past = past._replace(norm_level=jnp.where(known, past.norm_level, norms))
        bound = relative * past.norm_level
        limit = softened(bound, norms, 1e-6 if reference else 0)
        entered = _entered(past, _averaged(past, jnp.minimum(norms, limit), beta))
        return limit, _escaped(entered, known & (norms > bound), norms, long)

    return bounded_by_history(
        "clip_by_norm_ratio",
        _no_level_or_streak,
        rule,
        per_leaf=per_leaf,
        zeros_enter=reference,
    )


def limit_norm_growth(
    max_growth: ArrayLike = 1.01,
    min_norm: ArrayLike = 0.0,
    *,
    per_leaf: bool = True,
    reference: bool = False,
) -> optax.GradientTransformation:
    r"""Bounds how much each norm may grow from one update to the next.

    :math:`u_t = g_t \cdot \min(1, \gamma \max(\|u_{t-1}\|, m) / \|g_t\|)` with
    the norms of a leaf (or of all); the first is let through. In Fira it stands after
    the scaling of the part of the gradient outside of a subspace, in APOLLO after the
    scaling of the whole.

    Args:
      max_growth: :math:`\gamma \ge 0`; traceable.
      min_norm: :math:`m \ge 0`, below which growth is free; traceable.
      per_leaf: whether each leaf has its own norm; static.
      reference: whether to give Fira's numbers where they differ: 1e-8 is added to the
        norm before, and a zero norm is one as well (it then takes some 1400 updates
        to come back to 1); static.

    Returns:
      A transformation whose state has metrics: the norm, the threshold or how many
      leaves were clipped, whether and how often any was. A non-finite gradient gives
      NaN, in the leaf if ``per_leaf``, else everywhere, and is not remembered, nor is a
      zero norm: the next update is clipped as if it had not been. After a lasting rise
      of the scale by a factor :math:`r` it has followed in :math:`\ln r / \ln \gamma`
      updates (a hundredfold one in 463), after a fall at once.

    Raises:
      ValueError: if a number is concrete and negative or NaN.
      TypeError: if a number is none.

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

    Source: Chen et al., Fira, 2024; Zhu et al., APOLLO, 2024.
    """
    numbers = {"max_growth": max_growth, "min_norm": min_norm}
    _check(numbers)
    eps = 1e-8 if reference else 0.0

    def rule(norms: jax.Array, past: NormLevel) -> tuple[jax.Array, NormLevel]:
        growth, least = scalars(numbers, norms.dtype)
        before = jnp.maximum(past.norm_level + eps, least)
        limit = jnp.where(past.level_seen > 0, growth * before, jnp.inf)
        return limit, _entered(past, jnp.minimum(norms, limit))

    return bounded_by_history(
        "limit_norm_growth", _no_level, rule, per_leaf=per_leaf, zeros_enter=reference
    )


def _check(numbers: dict[str, ArrayLike]) -> None:
    for name, number in numbers.items():
        check_between(name, number, 0, 1 if name == "decay" else math.inf)


def _no_level(number: int, dtype: Any, streak: Streak | None = None) -> NormLevel:
    return NormLevel(jnp.zeros(number, dtype), jnp.zeros(number, jnp.int32), streak)


def _no_level_or_streak(number: int, dtype: Any) -> NormLevel:
    return _no_level(number, dtype, no_streak(number, dtype))


def _averaged(past: NormLevel, norms: jax.Array, decay: jax.Array) -> jax.Array:
    # In a form in which no subnormal number appears, which devices flush to zero.
    return past.norm_level + (1 - decay) * (norms - past.norm_level)


def _entered(past: NormLevel, level: jax.Array) -> NormLevel:
    seen = optax.safe_increment(past.level_seen)
    return past._replace(norm_level=level, level_seen=seen)


def _escaped(
    entered: NormLevel, clipped: jax.Array, norms: jax.Array, patience: jax.Array
) -> NormLevel:
    """The smallest norm of a streak of clips that has lasted is the new level."""
    streak, lasted, least = lengthened(entered.level_streak, clipped, norms, patience)
    level = jnp.where(lasted, least, entered.norm_level)
    return entered._replace(norm_level=level, level_streak=streak)


def _share_of(most: jax.Array, norms: jax.Array, eps: float) -> jax.Array:
    """Each norm times min(1, most / (their norm + eps))."""
    total = scaled_norm(norms)
    k = 1 / total.unit
    some = norms > 0
    divisor = jnp.where(some, total.value + eps * k, 1)
    return jnp.minimum(norms, most * jnp.where(some, norms * k / divisor, 1))
