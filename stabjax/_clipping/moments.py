"""The two moments of every entry, as Adam and its kin keep them; and their resets."""

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
    moved_mean,
    moved_root,
    quotient,
    unzipped,
    weight,
    zero_moments,
)
from stabjax._clipping.threshold import check_threshold
from stabjax._norms import ScaledNorm, norm_dtype, safe_root, widened
from stabjax._scaling import apply_factor, as_scalar, cast_back, clip_factor


class MomentStep(NamedTuple):
    """The numbers of a step of Adam: new weights, and what debiases the averages."""

    mean: Weight
    root: Weight
    mean_factor: jax.Array
    root_factor: jax.Array
    eps: jax.Array


def moment_step(
    decays: tuple[jax.Array, jax.Array],
    eps: jax.Array,
    age: jax.Array,
    debias_count: jax.Array,
    valid: jax.Array,
) -> MomentStep:
    """For moments of `age` updates, debiased as if they were of `debias_count`."""
    b1, b2 = decays
    return MomentStep(
        mean=weight(b1, age, valid),
        root=weight(b2, age, valid),
        mean_factor=mass(b1, age) / mass(b1, debias_count),
        root_factor=jnp.sqrt(mass(b2, age) / mass(b2, debias_count)),
        eps=eps,
    )


def move_moments(
    g: jax.Array, mean: jax.Array, root: jax.Array, by: MomentStep
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Adam's direction mean / (root + eps), and the moments that it comes from."""
    mean, root = moved_mean(mean, g, by.mean), moved_root(root, g, by.root)
    dtype = mean.dtype
    denominator = root * by.root_factor.astype(dtype) + by.eps.astype(dtype)
    direction = quotient(mean * by.mean_factor.astype(dtype), denominator)
    return direction, mean, root


def since_reset(count: jax.Array, every: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether moments were reset, before the updates number T, 2T, ..., and their age.

    The age is the number of updates they stand for, this one included.
    """
    was_reset = (every > 0) & (count >= every)
    age = jnp.where(was_reset, count % jnp.maximum(every, 1) + 1, count)
    return was_reset, age


def cosine_warmup(
    was_reset: jax.Array, age: jax.Array, warmup_steps: jax.Array
) -> jax.Array:
    """SPAM's factor after a reset: from 0.01 to 1 in so many updates."""
    k = (age - 1).astype(warmup_steps.dtype)
    rising = was_reset & (k < warmup_steps)
    angle = jnp.pi * k / (warmup_steps + 1)
    return jnp.where(rising, 1 - 0.495 * (1 + jnp.cos(angle)), 1)


class ResetMomentsState(NamedTuple):
    """State of :func:`reset_moments`."""

    inner_state: optax.OptState
    reset_step: jax.Array  # int32: updates seen
    metrics: dict[str, jax.Array]  # age: updates since the last reset


def reset_moments(
    inner: optax.GradientTransformation,
    every: ArrayLike = 1000,
    warmup_steps: ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Gives a transformation its initial state again, every so many updates.

    The updates number :math:`T, 2T, \dots` start from ``inner.init(params)``, so that
    what a spike left in the moments is gone after :math:`T` updates; NaN, too. The
    first :math:`N` updates after a reset are multiplied by :math:`1 - 0.99 \cdot
    \tfrac12 (1 + \cos \tfrac{\pi k}{N + 1})`, :math:`k = 0, 1, \dots`

    Args:
      inner: any Optax transformation that keeps moments, but no count that is to go
        on, such as that of a schedule; extra arguments are passed on to it.
      every: :math:`T`, updates from reset to reset (0: never); traceable.
      warmup_steps: :math:`N`, updates in which the factor rises (0: none, as in
        Stable-SPAM; SPAM: 150); traceable.

    Returns:
      A transformation with a :class:`ResetMomentsState`, whose ``update`` needs
      ``params``. Its count goes on through non-finite gradients. Whatever ``inner``
      learned from a NaN, or from gradients of another scale, is forgotten after at
      most :math:`T` updates, and the warm-up over after :math:`T + N`.

    Raises:
      ValueError: if ``every`` or ``warmup_steps`` is concrete and negative, NaN or no
        scalar, or if ``params`` are missing.
      TypeError: if one of them is no number, or ``inner`` no transformation.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> tx = stabjax.reset_moments(optax.trace(1.0), every=3)
      >>> params = jnp.zeros(())
      >>> state = tx.init(params)
      >>> for _ in range(4):
      ...     updates, state = tx.update(jnp.array(1.0), state, params)
      ...     print(float(updates))
      1.0
      2.0
      1.0
      2.0

    Source: Huang et al., SPAM, 2025; the MoRet of Stable-SPAM, 2025, whose code lets
    the update number T use the old moments with the bias correction of new ones.
    """
    if not isinstance(inner, optax.GradientTransformation):
        raise TypeError(
            f"inner must be an optax.GradientTransformation, got {type(inner).__name__}"
        )
    check_threshold("every", every)
    check_threshold("warmup_steps", warmup_steps)
    inner = optax.with_extra_args_support(inner)

    def seen(age: jax.Array) -> dict[str, jax.Array]:
        return {"reset_moments:age": age}

    def init_fn(params: optax.Params) -> ResetMomentsState:
        step, age = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return ResetMomentsState(inner.init(params), step, seen(age))

    def update_fn(
        updates: optax.Updates,
        state: ResetMomentsState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ResetMomentsState]:
        if params is None:
            raise ValueError(
                "reset_moments makes new moments for params: "
                "call update(updates, state, params)"
            )
        count = optax.safe_increment(state.reset_step)
        was_reset, age = since_reset(count, as_scalar("every", every, jnp.int32))
        inner_state = jax.tree.map(
            lambda new, old: jnp.where(was_reset & (age == 1), new, old),
            inner.init(params),
            state.inner_state,
        )
        updates, inner_state = inner.update(updates, inner_state, params, **extra_args)
        steps = as_scalar("warmup_steps", warmup_steps, jnp.float32)
        factor = cosine_warmup(was_reset, age, steps)
        updates = jax.tree.map(lambda u: _scaled(u, factor), updates)
        return updates, ResetMomentsState(inner_state, count, seen(age))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class StableAdamState(NamedTuple):
    """State of :func:`scale_by_stable_adam`."""

    stable_adam_step: jax.Array  # int32: finite updates seen
    stable_adam_clips: jax.Array  # int32: updates in which a leaf was bounded
    stable_adam_mean: optax.Params  # debiased first moment of each entry
    stable_adam_root: optax.Params  # root of its debiased second moment
    metrics: dict[str, jax.Array]  # grad_norm, clipped, clip_fraction


def scale_by_stable_adam(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    eps: ArrayLike = 1e-6,
    threshold: ArrayLike = 1.0,
    weight_decay: ArrayLike | None = None,
) -> optax.GradientTransformation:
    r"""Adam whose step is bounded, leaf by leaf, where gradients exceed their moment.

    With :math:`m` and :math:`v` the debiased averages of :math:`g` and :math:`g^2`,
    this gradient included, :math:`u_l = (m_l / (\sqrt{v_l} + \epsilon) + \lambda w_l)
    / \max(1, R_l / d)` for every leaf :math:`l`, where :math:`R_l = \mathrm{rms}(g_l /
    \max(\sqrt{v_l}, \epsilon))` exceeds 1 where the second moment lags behind.

    Args:
      b1: decay of :math:`m`, from 0 to below 1; traceable.
      b2: decay of :math:`v`, likewise.
      eps: :math:`\epsilon \ge 0`; traceable.
      threshold: :math:`d \ge 0` (inf: plain Adam); traceable.
      weight_decay: :math:`\lambda \ge 0`, which shrinks with the step as in the
        authors' StableAdamW; traceable. None: no decay, and no need of ``params``.

    Returns:
      A transformation with a :class:`StableAdamState`, to be followed by the learning
      rate. It bounds the step, not the moments, which a spike enters. A non-finite
      gradient gives NaN in every entry and leaves the state as it is: the next update
      works. After gradients grew a hundredfold for good, the updates are of their
      former size, within a factor of 2, after :math:`1 / (1 - b_1)` updates; after
      they fell as far, after :math:`\ln 10^4 / (1 - b_2)`.

    Raises:
      ValueError: if an argument is concrete and negative, NaN or no scalar, if ``b1``
        or ``b2`` is 1 or more, or if ``params`` are missing where there is decay.
      TypeError: if one is no number, or a parameter is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> adam = stabjax.scale_by_stable_adam()
      >>> state = adam.init(jnp.zeros(2))
      >>> for grads in ([1.0, 1.0], [1.0, -1.0], [10.0, 1.0]):
      ...     updates, state = adam.update(jnp.array(grads), state)
      >>> [round(float(u), 4) for u in updates]
      [0.5272, 0.2401]

    Source: Wortsman et al., Stable and low-precision training for large-scale
    vision-language models, 2023.
    """
    check_decay("b1", b1)
    check_decay("b2", b2)
    check_threshold("eps", eps)
    check_threshold("threshold", threshold)
    if weight_decay is not None:
        check_threshold("weight_decay", weight_decay)

    def move(step: Step) -> tuple[optax.Updates, tuple[Any, ...], jax.Array]:
        decays = as_scalar("b1", b1, step.dtype), as_scalar("b2", b2, step.dtype)
        eps_ = as_scalar("eps", eps, step.dtype)
        by = moment_step(decays, eps_, step.number, step.number, step.finite)
        limit = as_scalar("threshold", threshold, step.dtype)
        decayed, rate = _decayed(step.params, weight_decay, step.dtype)
        tuples = jax.tree.map(
            lambda g, mean, root, *w: _bounded_step(
                g, (mean, root), w, by, limit, rate
            ),
            step.updates,
            *step.averages,
            *decayed,
        )
        updates, mean, root, exceeded = unzipped(step.updates, tuples, 4)
        return updates, (mean, root), any_leaf(exceeded)

    return averaging(
        StableAdamState,
        "scale_by_stable_adam",
        lambda params: (zero_moments(params), zero_moments(params)),
        move,
    )


def _decayed(
    params: optax.Params | None, weight_decay: ArrayLike | None, dtype: Any
) -> tuple[tuple[optax.Params, ...], jax.Array]:
    """The parameters to decay, if any, and the rate."""
    if weight_decay is None:
        return (), jnp.zeros((), dtype)
    if params is None:
        raise ValueError(
            "scale_by_stable_adam decays params: call update(updates, state, params)"
        )
    return (params,), as_scalar("weight_decay", weight_decay, dtype)


@partial(jax.jit, inline=True)
def _bounded_step(
    g: ArrayLike,
    averages: tuple[jax.Array, jax.Array],
    decayed: tuple[ArrayLike, ...],
    by: MomentStep,
    limit: jax.Array,
    rate: jax.Array,
) -> tuple[jax.Array, ...]:
    dtype = averages[0].dtype
    x = widened(g, dtype)
    direction, mean, root = move_moments(x, *averages, by)
    for w in decayed:
        direction = direction + rate.astype(dtype) * widened(w, dtype)
    # Quotients of at most 1 / sqrt(1 - b2): their squares need no care.
    squares = quotient(x, jnp.maximum(root, by.eps.astype(dtype))) ** 2
    rms = safe_root(jnp.sum(squares) / max(x.size, 1))
    shrink = clip_factor(ScaledNorm(rms, jnp.ones_like(rms)), limit.astype(dtype))
    bounded = cast_back(apply_factor(direction, shrink), jnp.asarray(g).dtype)
    return bounded, mean, root, shrink.exceeded


def _scaled(u: ArrayLike, factor: jax.Array) -> jax.Array:
    u = jnp.asarray(u)
    wide = widened(u, norm_dtype([u]))
    return cast_back(wide * factor.astype(wide.dtype), u.dtype)
