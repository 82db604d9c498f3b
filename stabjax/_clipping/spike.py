"""Single entries that jump above their second moment: SPAM, and its two pieces."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from stabjax._clipping.averages import (
    Step,
    Weight,
    any_leaf,
    averaging,
    check_decay,
    mass,
    moved_root,
    unzipped,
    weight,
    zero_moments,
)
from stabjax._clipping.moments import (
    MomentStep,
    cosine_warmup,
    moment_step,
    move_moments,
    since_reset,
)
from stabjax._clipping.threshold import check_threshold
from stabjax._norms import safe_root, widened
from stabjax._scaling import as_scalar, cast_back


class SecondMomentClipState(NamedTuple):
    """State of :func:`clip_by_second_moment`."""

    spike_step: jax.Array  # int32: finite updates seen
    spike_clips: jax.Array  # int32: updates in which an entry was bounded
    spike_root: optax.Params  # root of the debiased second moment of each entry
    metrics: dict[str, jax.Array]  # grad_norm, clipped, clip_fraction


class SpamState(NamedTuple):
    """State of :func:`scale_by_spam`."""

    spam_step: jax.Array  # int32: finite updates seen
    spam_clips: jax.Array  # int32: updates in which an entry was bounded
    spam_mean: optax.Params  # debiased first moment of each entry
    spam_root: optax.Params  # root of its debiased second moment
    metrics: dict[str, jax.Array]  # grad_norm, clipped, clip_fraction


def clip_by_second_moment(
    threshold: ArrayLike = 5000.0,
    decay: ArrayLike = 0.999,
    clip_delay: ArrayLike = 20,
) -> optax.GradientTransformation:
    r"""Bounds every entry by a multiple of the root of its own second moment.

    :math:`u_i = \mathrm{sign}(g_i) \min(|g_i|, \sqrt{\theta v_i})` from the update
    ``clip_delay`` on, and then :math:`v_i \leftarrow b v_i + (1 - b) u_i^2`, from
    :math:`v_i = 0`: the spike clip of SPAM, for any optimizer.

    Args:
      threshold: :math:`\theta \ge 0`, how many times its mean square the square of an
        entry may be (inf: never clip); traceable.
      decay: :math:`b`, from 0 to below 1; traceable.
      clip_delay: number of the first update that is bounded; traceable.

    Returns:
      A transformation with a :class:`SecondMomentClipState`. An entry whose moment is
      0 is not bounded (by SPAM's code it is 0, and so for ever). A non-finite gradient
      gives NaN in every entry and leaves the state as it is: the next update works.
      While an entry is bounded its bound grows by :math:`\sqrt{1 + (1 - b)(\theta -
      1)}` an update, 2.4 with the defaults: entries a hundred times larger pass whole
      from the fourth update on; smaller ones pass at once.

    Raises:
      ValueError: if an argument is concrete and negative, NaN or no scalar, or
        ``decay`` is 1 or more.
      TypeError: if one is no number, or a parameter is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_second_moment(4.0, decay=0.75, clip_delay=2)
      >>> state = clipping.init(jnp.zeros(2))
      >>> for entry in (1.0, 10.0):
      ...     updates, state = clipping.update(jnp.array([entry, 0.1]), state)
      ...     print([round(float(u), 4) for u in updates])
      [1.0, 0.1]
      [1.0, 0.1]

    Source: Huang et al., SPAM: Spike-aware Adam with momentum reset, 2025.
    """
    check_threshold("threshold", threshold)
    check_decay("decay", decay)
    check_threshold("clip_delay", clip_delay)

    def move(step: Step) -> tuple[optax.Updates, tuple[Any, ...], jax.Array]:
        b = as_scalar("decay", decay, step.dtype)
        first = as_scalar("clip_delay", clip_delay, jnp.int32)
        limit = as_scalar("threshold", threshold, step.dtype)
        late = (step.number >= first) & (step.number > 1)
        bound = _bound(limit, b, step.number, late)
        by = weight(b, step.number, step.finite)
        triples = jax.tree.map(
            lambda g, root: _clip_entries(g, root, bound, by),
            step.updates,
            *step.averages,
        )
        updates, root, exceeded = unzipped(step.updates, triples, 3)
        return updates, (root,), any_leaf(exceeded)

    return averaging(
        SecondMomentClipState,
        "clip_by_second_moment",
        lambda params: (zero_moments(params),),
        move,
    )


def scale_by_spam(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    threshold: ArrayLike = 5000.0,
    reset_every: ArrayLike = 500,
    warmup_steps: ArrayLike = 150,
    clip_delay: ArrayLike = 20,
    reference: bool = False,
) -> optax.GradientTransformation:
    r"""Adam whose entries are bounded by their moment, and whose moments are reset.

    Update :math:`n` first sets :math:`m = v = 0` if :math:`n` is a multiple of
    :math:`T`; bounds :math:`|g_i| \le \sqrt{\theta v_i}`, but for the first
    ``clip_delay`` updates after a reset; then, as Adam, :math:`m \leftarrow b_1 m +
    (1 - b_1) g`, :math:`v \leftarrow b_2 v + (1 - b_2) g^2`, and

    .. math:: u = s_k \frac{\sqrt{1 - b_2^{k+1}}}{1 - b_1^{k+1}} \frac{m}{\sqrt v +
       \epsilon}, \qquad s_k = 1 - 0.99 \cdot \tfrac12 (1 + \cos \tfrac{\pi k}{N + 1})

    with :math:`k` the updates since the last reset; :math:`s_k = 1` from :math:`k = N`
    on, and before the first reset.

    Args:
      b1: :math:`b_1`, from 0 to below 1; traceable.
      b2: :math:`b_2`, likewise.
      eps: :math:`\epsilon \ge 0`; traceable.
      threshold: :math:`\theta \ge 0` (inf: never clip); traceable.
      reset_every: :math:`T`, updates from reset to reset (0: never); traceable.
      warmup_steps: :math:`N`, updates in which :math:`s_k` rises; traceable.
      clip_delay: updates after a reset without bounds; traceable.
      reference: whether to give the numbers of the authors' code, which goes on to
        debias by the number :math:`n` of all updates after a reset, so that the first
        ones are some three times too large, and bounds entries whose moment is 0 by 0,
        so for ever; static.

    Returns:
      A transformation with a :class:`SpamState`, to be followed by weight decay and
      the learning rate. A non-finite gradient gives NaN in every entry and leaves the
      state as it is: the next update works. After gradients grew a hundredfold for
      good, or fell as far, the updates are of their former size, within a factor of 2,
      after at most :math:`T + N` updates, 650 with the defaults: the next reset forgets
      the old scale.

    Raises:
      ValueError: if an argument is concrete and negative, NaN or no scalar, or ``b1``
        or ``b2`` is 1 or more.
      TypeError: if one is no number, or a parameter is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> spam = stabjax.scale_by_spam(0.5, 0.75, 0.0, threshold=4.0, clip_delay=2)
      >>> state = spam.init(jnp.zeros(1))
      >>> for entry in (1.0, 1.0, 10.0):
      ...     updates, state = spam.update(jnp.array([entry]), state)
      ...     print(round(float(updates[0]), 4))
      1.0
      1.0
      1.0293

    Source: Huang et al., SPAM: Spike-aware Adam with momentum reset, 2025.
    """
    check_decay("b1", b1)
    check_decay("b2", b2)
    check_threshold("eps", eps)
    check_threshold("threshold", threshold)
    check_threshold("reset_every", reset_every)
    check_threshold("warmup_steps", warmup_steps)
    check_threshold("clip_delay", clip_delay)

    def move(step: Step) -> tuple[optax.Updates, tuple[Any, ...], jax.Array]:
        decays = as_scalar("b1", b1, step.dtype), as_scalar("b2", b2, step.dtype)
        every = as_scalar("reset_every", reset_every, jnp.int32)
        was_reset, age = since_reset(step.number, every)
        delay = as_scalar("clip_delay", clip_delay, jnp.int32)
        late = jnp.where(was_reset, age - 1, age) >= delay
        if not reference:
            late = late & (age > 1)
        limit = as_scalar("threshold", threshold, step.dtype)
        bound = _bound(limit, decays[1], age, late)
        debias_count = step.number if reference else age
        eps_ = as_scalar("eps", eps, step.dtype) / jnp.sqrt(
            mass(decays[1], debias_count)
        )
        by = moment_step(decays, eps_, age, debias_count, step.finite)
        steps = as_scalar("warmup_steps", warmup_steps, step.dtype)
        scale = cosine_warmup(was_reset, age, steps)
        tuples = jax.tree.map(
            lambda g, *averages: _spam_leaf(g, averages, bound, by, scale, reference),
            step.updates,
            *step.averages,
        )
        updates, mean, root, exceeded = unzipped(step.updates, tuples, 4)
        return updates, (mean, root), any_leaf(exceeded)

    return averaging(
        SpamState,
        "scale_by_spam",
        lambda params: (zero_moments(params), zero_moments(params)),
        move,
    )


class _Bound(NamedTuple):
    """Entries are bounded by `factor` times the root of their second moment."""

    factor: jax.Array
    active: jax.Array


def _bound(
    threshold: jax.Array, decay: jax.Array, age: jax.Array, active: jax.Array
) -> _Bound:
    """By the moment before this update, the one number `age`, biased as in Adam."""
    square = jnp.where(threshold >= 0, threshold * mass(decay, age - 1), jnp.nan)
    active = active & (square != jnp.inf)
    return _Bound(safe_root(jnp.where(active, square, 1)), active)


def _bounded(
    x: jax.Array, root: jax.Array, bound: _Bound, zeros: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Bounded entries, and whether any was; entries with a moment of 0 on request."""
    applies = bound.active if zeros else bound.active & (root > 0)
    limit = jnp.where(applies, root * bound.factor.astype(root.dtype), jnp.inf)
    return jnp.clip(x, -limit, limit), jnp.any(abs(x) > limit)


@partial(jax.jit, inline=True)
def _clip_entries(
    g: ArrayLike, root: jax.Array, bound: _Bound, by: Weight
) -> tuple[jax.Array, ...]:
    bounded, exceeded = _bounded(widened(g, root.dtype), root, bound)
    root = moved_root(root, bounded, by)
    return cast_back(bounded, jnp.asarray(g).dtype), root, exceeded


@partial(jax.jit, static_argnames="reference", inline=True)
def _spam_leaf(
    g: ArrayLike,
    averages: tuple[jax.Array, jax.Array],
    bound: _Bound,
    by: MomentStep,
    scale: jax.Array,
    reference: bool,
) -> tuple[jax.Array, ...]:
    mean, root = averages
    x, exceeded = _bounded(widened(g, root.dtype), root, bound, zeros=reference)
    direction, mean, root = move_moments(x, mean, root, by)
    scaled = direction * scale.astype(direction.dtype)
    return cast_back(scaled, jnp.asarray(g).dtype), mean, root, exceeded
