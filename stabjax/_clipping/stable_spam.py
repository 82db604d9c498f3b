"""Gradients scaled by the history of their size: Stable-SPAM and its pieces."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from stabjax._clipping.averages import (
    Step,
    Weight,
    any_leaf,
    averaging,
    check_decay,
    mass,
    moved_mean,
    quotient,
    unzipped,
    weight,
    zero_moments,
    zero_scalars,
)
from stabjax._clipping.moments import (
    MomentStep,
    moment_step,
    move_moments,
    since_reset,
)
from stabjax._clipping.threshold import check_threshold
from stabjax._norms import (
    ScaledNorm,
    as_scaled,
    global_norm,
    safe_root,
    scaled_norm,
    widened,
)
from stabjax._scaling import ClipFactor, apply_factor, as_scalar, cast_back, clip_factor


class TrackedMaxState(NamedTuple):
    """State of :func:`clip_by_tracked_max`."""

    tracked_max_step: jax.Array  # int32: finite updates seen
    tracked_max_clips: jax.Array  # int32: updates in which an entry was bounded
    tracked_max: optax.Params  # debiased average of each leaf's largest magnitude
    metrics: dict[str, jax.Array]  # grad_norm, clipped, clip_fraction


class TrackedNormState(NamedTuple):
    """State of :func:`normalize_by_tracked_norm`."""

    tracked_norm_step: jax.Array  # int32: finite updates seen
    tracked_norm_clips: jax.Array  # int32: updates in which a norm became smaller
    tracked_norm_mean: optax.Params  # debiased average of each leaf's norm
    tracked_norm_root: optax.Params  # root of that of the squared norm
    metrics: dict[str, jax.Array]  # grad_norm, clipped, clip_fraction


class StableSpamState(NamedTuple):
    """State of :func:`scale_by_stable_spam`."""

    stable_spam_step: jax.Array  # int32: finite updates seen
    stable_spam_clips: jax.Array  # int32: updates in which an entry was bounded
    stable_spam_max: optax.Params  # as in TrackedMaxState
    stable_spam_norm_mean: optax.Params  # as in TrackedNormState
    stable_spam_norm_root: optax.Params
    stable_spam_mean: optax.Params  # debiased first moment of each entry
    stable_spam_root: optax.Params  # root of its debiased second moment
    metrics: dict[str, jax.Array]  # grad_norm, clipped, clip_fraction


def clip_by_tracked_max(decay: ArrayLike = 0.999) -> optax.GradientTransformation:
    r"""Shrinks the entries above the average of the largest entry: AdaFN.

    With :math:`M_l` the debiased average of :math:`\max_i |g_i|` over the updates of
    leaf :math:`l`, this one included, :math:`u_i = g_i M_l / \max_j |g_j|` where
    :math:`|g_i| > M_l`, and :math:`u_i = g_i` elsewhere. So the largest entry becomes
    :math:`M_l`, and others above it less: the order of entries may change.

    Args:
      decay: of the average, from 0 to below 1; traceable.

    Returns:
      A transformation with a :class:`TrackedMaxState`. A non-finite gradient gives NaN
      in every entry and leaves the state as it is: the next update works. After
      gradients grew for good, however far, their largest entry is at most halved from
      :math:`\ln 2 / (1 - b)` updates on, 693 with the default; after they fell a
      hundredfold nothing is clipped, and the bound is within twice the largest entry
      after :math:`\ln 100 / (1 - b)`.

    Raises:
      ValueError: if ``decay`` is concrete and not from 0 to below 1, or no scalar.
      TypeError: if it is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_tracked_max(decay=0.5)
      >>> state = clipping.init(jnp.zeros(3))
      >>> for grads in ([1.0, 2.0, 3.0], [1.0, 5.0, 9.0]):
      ...     updates, state = clipping.update(jnp.array(grads), state)
      ...     print([round(float(u), 4) for u in updates])
      [1.0, 2.0, 3.0]
      [1.0, 5.0, 7.0]

    Source: Huang et al., Stable-SPAM: How to train in 4-bit more stably than 16-bit
    Adam, 2025.
    """
    check_decay("decay", decay)

    def move(step: Step) -> tuple[optax.Updates, tuple[Any, ...], jax.Array]:
        b = as_scalar("decay", decay, step.dtype)
        by, bias = weight(b, step.number, step.finite), jnp.ones((), step.dtype)
        tuples = jax.tree.map(
            lambda g, largest: _clip_largest(g, largest, by, bias),
            step.updates,
            *step.averages,
        )
        updates, largest, exceeded, _ = unzipped(step.updates, tuples, 4)
        return updates, (largest,), any_leaf(exceeded)

    return averaging(
        TrackedMaxState,
        "clip_by_tracked_max",
        lambda params: (zero_scalars(params),),
        move,
    )


def normalize_by_tracked_norm(
    b1: ArrayLike = 0.7, b2: ArrayLike = 0.9, eps: ArrayLike = 1e-8
) -> optax.GradientTransformation:
    r"""Gives each leaf the norm that is usual for it, in units of its spread: AdaGN.

    :math:`u_l = \frac{g_l}{\|g_l\|} \cdot \frac{\mu_l}{\sqrt{\nu_l} + \epsilon}`, with
    :math:`\mu_l` and :math:`\nu_l` the debiased averages of :math:`\|g_l\|` and
    :math:`\|g_l\|^2`, this gradient included: a norm of about 1 for every leaf, which
    no spike moves much. A zero gradient stays zero.

    Args:
      b1: decay of :math:`\mu`, from 0 to below 1; traceable.
      b2: decay of :math:`\nu`, likewise.
      eps: :math:`\epsilon \ge 0`; traceable.

    Returns:
      A transformation with a :class:`TrackedNormState`. A non-finite gradient gives
      NaN in every entry and leaves the state as it is: the next update works. After
      gradients grew a hundredfold for good the norms stay within a factor of 2 (with
      the defaults); after they fell as far, they are from :math:`\ln 10^4 / (1 -
      b_2)` updates on, 92 with the defaults, and much smaller meanwhile.

    Raises:
      ValueError: if an argument is concrete and negative, NaN or no scalar, or ``b1``
        or ``b2`` is 1 or more.
      TypeError: if one is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> stabilizer = stabjax.normalize_by_tracked_norm()
      >>> state = stabilizer.init(jnp.zeros(2))
      >>> for size in (1.0, 100.0):
      ...     updates, state = stabilizer.update(size * jnp.array([3.0, 4.0]), state)
      ...     print([round(float(u), 4) for u in updates])
      [0.6, 0.8]
      [0.4899, 0.6532]

    Source: Huang et al., Stable-SPAM, 2025; alone it is their GradientStabilizer, 2026.
    """
    check_decay("b1", b1)
    check_decay("b2", b2)
    check_threshold("eps", eps)

    def move(step: Step) -> tuple[optax.Updates, tuple[Any, ...], jax.Array]:
        decays = as_scalar("b1", b1, step.dtype), as_scalar("b2", b2, step.dtype)
        eps_ = as_scalar("eps", eps, step.dtype)
        by = moment_step(decays, eps_, step.number, step.number, step.finite)
        tuples = jax.tree.map(
            lambda g, *averages: _normalize(g, scaled_norm(g), averages, by),
            step.updates,
            *step.averages,
        )
        updates, mean, root, smaller = unzipped(step.updates, tuples, 4)
        return updates, (mean, root), any_leaf(smaller)

    return averaging(
        TrackedNormState,
        "normalize_by_tracked_norm",
        lambda params: (zero_scalars(params), zero_scalars(params)),
        move,
    )


def scale_by_stable_spam(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    gamma1: ArrayLike = 0.7,
    gamma2: ArrayLike = 0.9,
    gamma3: ArrayLike = 0.999,
    reset_every: ArrayLike = 1000,
    reference: bool = False,
) -> optax.GradientTransformation:
    r"""Stable-SPAM: AdaFN, AdaGN, and an Adam whose moments are reset.

    :func:`stabjax.clip_by_tracked_max` with :math:`\gamma_3`, then
    :func:`stabjax.normalize_by_tracked_norm` with :math:`\gamma_1, \gamma_2`, then
    Adam under :func:`stabjax.reset_moments`, as one transformation: the averages of
    norms have counts of their own, and a reset leaves them alone.

    Args:
      b1: decay of Adam's first moment, from 0 to below 1; traceable.
      b2: decay of its second, likewise.
      eps: :math:`\epsilon \ge 0` of Adam and of AdaGN; traceable.
      gamma1: decay of AdaGN's average of norms (bfloat16: the authors use 0.85);
        traceable.
      gamma2: decay of its average of squared norms (bfloat16: 0.99999); traceable.
      gamma3: decay of AdaFN's average; traceable.
      reset_every: updates from reset to reset (0: never; 4-bit: the authors use 500);
        traceable.
      reference: whether to give the numbers of the authors' code, in which a reset
        sets back the count that debiases the averages of norms, too, so that AdaFN
        clips next to nothing for a thousand updates, and in which the update of the
        reset has old moments with the bias correction of new ones; static.

    Returns:
      A transformation with a :class:`StableSpamState`, to be followed by weight decay
      and the learning rate. A non-finite gradient gives NaN in every entry and leaves
      the state as it is: the next update works. After gradients grew a hundredfold for
      good the updates keep their size within a factor of 2 (with the defaults); after
      they fell as far, they have it again after :math:`\ln 10^4 / (1 - \gamma_2) + 1 /
      (1 - b_1)` updates, 102 with the defaults.

    Raises:
      ValueError: if an argument is concrete and negative, NaN or no scalar, or a decay
        is 1 or more.
      TypeError: if one is no number, or a parameter is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> stable_spam = stabjax.scale_by_stable_spam(gamma3=0.9)
      >>> state = stable_spam.init(jnp.zeros(2))
      >>> for size in (1.0, 1.0, 10.0):
      ...     updates, state = stable_spam.update(size * jnp.array([3.0, 4.0]), state)
      >>> [round(float(u), 4) for u in updates]
      [0.9962, 0.9962]

    Source: Huang et al., Stable-SPAM: How to train in 4-bit more stably than 16-bit
    Adam, 2025. Their option `total_T`, which lowers :math:`\gamma_1` and :math:`b_1`
    by a cosine, is a schedule of both under ``optax.inject_hyperparams``.
    """
    check_decay("b1", b1)
    check_decay("b2", b2)
    check_threshold("eps", eps)
    check_decay("gamma1", gamma1)
    check_decay("gamma2", gamma2)
    check_decay("gamma3", gamma3)
    check_threshold("reset_every", reset_every)

    def move(step: Step) -> tuple[optax.Updates, tuple[Any, ...], jax.Array]:
        decays = as_scalar("b1", b1, step.dtype), as_scalar("b2", b2, step.dtype)
        gammas = (
            as_scalar("gamma1", gamma1, step.dtype),
            as_scalar("gamma2", gamma2, step.dtype),
        )
        gamma3_ = as_scalar("gamma3", gamma3, step.dtype)
        eps_ = as_scalar("eps", eps, step.dtype)
        every = as_scalar("reset_every", reset_every, jnp.int32)
        _, age = since_reset(step.number, every)
        norm_count, content = step.number, age
        if reference:  # counts are set back in the middle of a step, moments after it
            norm_count = since_reset(step.number - 1, every)[1] + 1
            content = _content(step.number, every)
        numbers = _Numbers(
            weight(gamma3_, step.number, step.finite),
            mass(gamma3_, step.number) / mass(gamma3_, norm_count),
            moment_step(gammas, eps_, step.number, norm_count, step.finite),
            moment_step(decays, eps_, content, age, step.finite),
        )
        tuples = jax.tree.map(
            lambda g, *averages: _stable_spam_leaf(g, averages, numbers),
            step.updates,
            *step.averages,
        )
        updates, *averages, exceeded = unzipped(step.updates, tuples, 7)
        return updates, tuple(averages), any_leaf(exceeded)

    def init(params: optax.Params) -> tuple[Any, ...]:
        of_leaves = [zero_scalars(params) for _ in range(3)]
        return (*of_leaves, zero_moments(params), zero_moments(params))

    return averaging(StableSpamState, "scale_by_stable_spam", init, move)


class _Numbers(NamedTuple):
    largest: Weight
    bias: jax.Array  # times AdaFN's average
    norms: MomentStep
    moments: MomentStep


def _content(count: jax.Array, every: jax.Array) -> jax.Array:
    """The age of moments in the authors' code: they are set back after an update."""
    return jnp.where(every > 0, (count - 1) % jnp.maximum(every, 1) + 1, count)


@partial(jax.jit, inline=True)
def _clip_largest(
    g: ArrayLike, average: jax.Array, by: Weight, bias: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The bounded leaf, the average, whether it bounded, and the largest entry now."""
    x = widened(g, average.dtype)
    largest = global_norm(x, math.inf)
    average = moved_mean(average, largest, by)
    limit = average * bias.astype(average.dtype)
    shrink = clip_factor(as_scaled(largest), limit)
    bounded = jnp.where(abs(x) > limit, apply_factor(x, shrink), x)
    bounded = cast_back(bounded, jnp.asarray(g).dtype)
    return bounded, average, shrink.exceeded, jnp.minimum(largest, limit)


@partial(jax.jit, inline=True)
def _normalize(
    g: ArrayLike, norm: ScaledNorm, averages: tuple[jax.Array, ...], by: MomentStep
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    mean, root = averages
    x = widened(g, mean.dtype)
    # A norm may exceed the largest number, where its average would stay infinite.
    value = jnp.minimum(norm.product, np.finfo(mean.dtype).max).astype(mean.dtype)
    target, mean, root = move_moments(value, mean, root, by)
    smaller = target < value
    # The unit first: the quotient may be as small as its inverse is large.
    scaled = apply_factor(
        x, ClipFactor(1 / norm.unit, quotient(target, norm.value), smaller)
    )
    return cast_back(scaled, jnp.asarray(g).dtype), mean, root, smaller


@partial(jax.jit, inline=True)
def _stable_spam_leaf(
    g: ArrayLike, averages: tuple[jax.Array, ...], by: _Numbers
) -> tuple[jax.Array, ...]:
    largest, norm_mean, norm_root, mean, root = averages
    x = widened(g, mean.dtype)
    x, largest, exceeded, top = _clip_largest(x, largest, by.largest, by.bias)
    # The largest entry is known: one sum will do, and nothing else reads the clipped.
    unit = as_scaled(top).unit
    norm = ScaledNorm(safe_root(jnp.sum((x * (1 / unit)) ** 2)), unit)
    x, norm_mean, norm_root, _ = _normalize(x, norm, (norm_mean, norm_root), by.norms)
    direction, mean, root = move_moments(x, mean, root, by.moments)
    direction = cast_back(direction, jnp.asarray(g).dtype)
    return direction, largest, norm_mean, norm_root, mean, root, exceeded
