"""Adam's two moments of every element, their resets, and a bounded Adam."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stabjax._axes import Axes, global_size, over_devices
from stabjax._clipping.averages import (
    Moved,
    Step,
    Weight,
    average_weight,
    bias_correction,
    divide_or_zero,
    update_mean,
    update_root,
    with_averages,
)
from stabjax._clipping.numbers import checked
from stabjax._metrics import check_transformation
from stabjax._norms import ScaledNorm, safe_root, widened
from stabjax._scaling import apply_factor, cast_back, clip_factor, multiply
from stabjax._types import Number


class AdamStep(NamedTuple):
    """The numbers of one step of Adam: weights of averages, and their debiasing."""

    mean: Weight
    root: Weight
    mean_factor: jax.Array
    root_factor: jax.Array
    eps: jax.Array


def adam_step(
    decays: tuple[jax.Array, jax.Array],
    eps: jax.Array,
    age: jax.Array,
    debias_count: jax.Array,
    valid: jax.Array,
) -> AdamStep:
    """Returns the step for moments of `age` updates, debiased by another count."""
    b1, b2 = decays
    mean, root = (bias_correction(b, age) for b in decays)
    return AdamStep(
        mean=average_weight(b1, age, valid),
        root=average_weight(b2, age, valid),
        mean_factor=mean / bias_correction(b1, debias_count),
        root_factor=jnp.sqrt(root / bias_correction(b2, debias_count)),
        eps=eps,
    )


def update_moments(
    g: jax.Array, mean: jax.Array, root: jax.Array, adam: AdamStep
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns Adam's direction mean / (root + eps), and the moments it comes from."""
    mean, root = update_mean(mean, g, adam.mean), update_root(root, g, adam.root)
    dtype = mean.dtype
    denominator = root * adam.root_factor.astype(dtype) + adam.eps.astype(dtype)
    direction = divide_or_zero(mean * adam.mean_factor.astype(dtype), denominator)
    return direction, mean, root


def since_reset(count: jax.Array, every: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns whether moments were reset so far, and their age.

    Resets come before the updates number `every`, `2 every`, and so on. The age is the
    number of updates that the moments stand for, this one included.
    """
    # Update number `every` is the first of a new period, and not the last of the old.
    was_reset = (every > 0) & (count >= every)
    age = jnp.where(was_reset, count % jnp.maximum(every, 1) + 1, count)
    return was_reset, age


def cosine_warmup(
    was_reset: jax.Array, age: jax.Array, warmup_steps: jax.Array
) -> jax.Array:
    """Returns SPAM's factor after a reset, which rises from 0.01 to 1."""
    k = (age - 1).astype(warmup_steps.dtype)
    rising = was_reset & (k < warmup_steps)
    angle = jnp.pi * k / (warmup_steps + 1)
    return jnp.where(rising, 1 - 0.495 * (1 + jnp.cos(angle)), 1)


class ResetMomentsState(NamedTuple):
    """State of `reset_moments`.

    Attributes:
      inner_state: the state of the wrapped transformation.
      reset_step: int32: number of updates.
      metrics: `age`; see `stabjax.metrics`.
    """

    inner_state: optax.OptState
    reset_step: jax.Array
    metrics: dict[str, jax.Array]


def reset_moments(
    inner: optax.GradientTransformation,
    every: Number = 1000,
    warmup_steps: Number = 0,
) -> optax.GradientTransformationExtraArgs:
    """Resets a transformation to its initial state at regular intervals.

    The updates number `every`, `2 every`, and so on start from `inner.init(params)`, so
    that what a spike or a NaN left in the moments is gone after `every` updates. With
    the `k` updates since the last reset, the first `warmup_steps` updates after it are
    multiplied by `1 - 0.99 (1 + cos(pi k / (warmup_steps + 1))) / 2`.

    It keeps SPAM's order of reset and update. In the code of Stable-SPAM, whose MoRet
    this is, the update of the reset uses the old moments with the bias correction of
    new ones.

    Args:
      inner: an Optax transformation whose state holds moments. It must not hold a count
        that goes on, such as that of a schedule. Extra arguments are passed on to it.
      every: updates from reset to reset, >= 0; 0: never. **Traceable.**
      warmup_steps: updates over which the factor rises, >= 0; Stable-SPAM has 0, SPAM
        150. **Traceable.**

    Returns:
      A transformation with a `ResetMomentsState`, whose `update` needs `params`. It
      also counts updates with a non-finite gradient. Whatever `inner` learned from a
      NaN, or from gradients of another scale, is forgotten after at most `every`
      updates, and the warm-up is over `warmup_steps` updates later.

    Raises:
      ValueError: `every` or `warmup_steps` is concrete and out of range, or not a
        scalar, or `params` is None.
      TypeError: one of them is not a number, or `inner` not a transformation.

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

    References:
      Huang et al., SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training,
      2025. https://arxiv.org/abs/2501.06842
      Huang et al., Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam,
      2025. https://arxiv.org/abs/2502.17055
    """
    check_transformation("inner", inner)
    counts = checked(every=(every, ">= 0"))
    scalars = checked(warmup_steps=(warmup_steps, ">= 0"))
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> ResetMomentsState:
        step, age = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return ResetMomentsState(inner.init(params), step, {"reset_moments:age": age})

    def update_fn(
        updates: optax.Updates,
        state: ResetMomentsState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ResetMomentsState]:
        if params is None:
            raise ValueError(
                "params must be given to make new moments, got None. "
                "Call update(updates, state, params)."
            )
        count = optax.safe_increment(state.reset_step)
        (every,), (warmup_steps,) = counts(jnp.int32), scalars(jnp.float32)
        was_reset, age = since_reset(count, every)
        # A selection, not a `cond`: under `vmap` that would become a selection anyway.
        inner_state = jax.tree.map(
            lambda new, old: jnp.where(was_reset & (age == 1), new, old),
            inner.init(params),
            state.inner_state,
        )
        updates, inner_state = inner.update(updates, inner_state, params, **extra_args)
        factor = cosine_warmup(was_reset, age, warmup_steps)
        updates = jax.tree.map(lambda u: multiply(u, factor), updates)
        metrics = {"reset_moments:age": age}
        return updates, ResetMomentsState(inner_state, count, metrics)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class StableAdamState(NamedTuple):
    """State of `scale_by_stable_adam`.

    Attributes:
      stable_adam_step: int32: number of finite updates.
      stable_adam_clips: int32: updates in which a leaf was bounded.
      stable_adam_mean: debiased first moment of each element.
      stable_adam_root: root of the debiased second moment of each element.
      metrics: `grad_norm`, `clipped`, `clip_fraction`; see `stabjax.metrics`.
    """

    stable_adam_step: jax.Array
    stable_adam_clips: jax.Array
    stable_adam_mean: optax.Params
    stable_adam_root: optax.Params
    metrics: dict[str, jax.Array]


def scale_by_stable_adam(
    b1: Number = 0.9,
    b2: Number = 0.99,
    eps: Number = 1e-6,
    *,
    threshold: Number = 1.0,
    weight_decay: Number | None = None,
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Adam whose step shrinks, leaf by leaf, where gradients exceed their moments.

    With the debiased averages `m` of `g` and `v` of `g^2`, this gradient included, each
    leaf with parameters `w` becomes

        u = (m / (sqrt(v) + eps) + weight_decay w) / max(1, rms / threshold)
        rms = sqrt(mean(g^2 / max(v, eps^2)))

    where `rms` exceeds 1 if the second moment lags behind.

    Args:
      b1: decay of `m`, in [0, 1). **Traceable.**
      b2: decay of `v`, in [0, 1). **Traceable.**
      eps: added to the denominator, >= 0. **Traceable.**
      threshold: largest `rms` without shrinking, >= 0; inf: plain Adam. **Traceable.**
      weight_decay: >= 0; it shrinks with the step, as in the authors' StableAdamW.
        Without it (None) `update` does not need `params`. **Traceable.**
      axis_name: as in `stabjax.global_norm`. **Static.**

    Returns:
      A transformation with a `StableAdamState`, to be followed by the learning rate. It
      bounds the step, not the moments, which a spike enters. A non-finite gradient
      gives NaN in every element and leaves the state unchanged. After a lasting rise of
      the gradients by a factor of 100, the updates have their former size, within a
      factor of 2, after `1 / (1 - b1)` updates; after such a fall, after
      `ln 10^4 / (1 - b2)`.

    Raises:
      ValueError: an argument is concrete and out of range, or not a scalar, or `params`
        is None with `weight_decay`.
      TypeError: an argument is not a number, or a parameter is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> adam = stabjax.scale_by_stable_adam()
      >>> state = adam.init(jnp.zeros(2))
      >>> for grads in ([1.0, 1.0], [1.0, -1.0], [10.0, 1.0]):
      ...     updates, state = adam.update(jnp.array(grads), state)
      >>> [round(float(u), 4) for u in updates]
      [0.5272, 0.2401]

    References:
      Wortsman et al., Stable and Low-Precision Training for Large-Scale Vision-Language
      Models, 2023. https://arxiv.org/abs/2304.13013
    """
    scalars = checked(
        b1=(b1, "in [0, 1)"),
        b2=(b2, "in [0, 1)"),
        eps=(eps, ">= 0"),
        threshold=(threshold, ">= 0"),
        weight_decay=(0.0 if weight_decay is None else weight_decay, ">= 0"),
    )

    def rule(step: Step) -> list[Moved]:
        b1, b2, eps, threshold, rate = scalars(step.dtype)
        adam = adam_step((b1, b2), eps, step.number, step.number, step.finite)
        decayed: list[tuple[jax.Array, ...]] = [()] * len(step.updates)
        if weight_decay is not None:
            if step.params is None:
                raise ValueError(
                    "params must be given for weight_decay, got None. "
                    "Call update(updates, state, params)."
                )
            decayed = [(w, rate) for w in step.params]
        return [
            _bounded_adam_leaf(g, averages, pair, adam, threshold, axes)
            for (g, averages, axes), pair in zip(step.leaves(), decayed, strict=True)
        ]

    return with_averages(
        StableAdamState,
        "scale_by_stable_adam",
        rule,
        axis_name,
        moments=2,
    )


@partial(jax.jit, static_argnames="axes", inline=True)
def _bounded_adam_leaf(
    g: jax.Array,
    averages: list[jax.Array],
    decayed: tuple[jax.Array, ...],
    adam: AdamStep,
    threshold: jax.Array,
    axes: Axes,
) -> Moved:
    dtype = averages[0].dtype
    x = widened(g, dtype)
    direction, mean, root = update_moments(x, averages[0], averages[1], adam)
    if decayed:
        w, rate = decayed
        direction = direction + rate.astype(dtype) * widened(w, dtype)
    # Quotients of at most 1 / sqrt(1 - b2): their squares do not overflow. Where the
    # root is 0, so is x; a selection would make XLA:CPU write the quotients to memory.
    least = jnp.maximum(adam.eps.astype(dtype), np.finfo(dtype).tiny)
    squares = (x / jnp.maximum(root, least)) ** 2
    mean_square = over_devices(jnp.sum(squares), axes) / max(global_size(x, axes), 1)
    rms = safe_root(mean_square)
    factor = clip_factor(ScaledNorm(rms, jnp.ones_like(rms)), threshold.astype(dtype))
    update = cast_back(apply_factor(direction, factor), jnp.result_type(g))
    return Moved(update, (mean, root), factor.exceeded)
