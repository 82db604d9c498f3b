"""Adam's moments, with periodic resets and bounded updates."""

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
from stabjax._norms import as_scaled, safe_root, widened
from stabjax._scaling import apply_factor, cast_back, clip_factor, multiply
from stabjax._types import Number


class AdamStep(NamedTuple):
    """Weights and bias corrections for one step of Adam."""

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
    """Returns the Adam step for moments of `age` updates."""
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
    """Computes Adam's direction mean / (root + eps) and the new moments."""
    mean, root = update_mean(mean, g, adam.mean), update_root(root, g, adam.root)
    dtype = mean.dtype
    denominator = root * adam.root_factor.astype(dtype) + adam.eps.astype(dtype)
    direction = divide_or_zero(mean * adam.mean_factor.astype(dtype), denominator)
    return direction, mean, root


def since_reset(count: jax.Array, every: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns whether moments have ever been reset, and their age.

    Moments are reset before update number `every`, `2 every`, and so on. The age is the
    number of updates included in the moments, counting this one.
    """
    # Update number `every` begins a new period instead of ending the old one.
    was_reset = (every > 0) & (count >= every)
    age = jnp.where(was_reset, count % jnp.maximum(every, 1) + 1, count)
    return was_reset, age


def cosine_warmup(
    was_reset: jax.Array, age: jax.Array, warmup_steps: jax.Array
) -> jax.Array:
    """Computes SPAM's warmup factor after a reset, which rises from 0.01 to 1."""
    k = (age - 1).astype(warmup_steps.dtype)
    rising = was_reset & (k < warmup_steps)
    angle = jnp.pi * k / (warmup_steps + 1)
    return jnp.where(rising, 1 - 0.495 * (1 + jnp.cos(angle)), 1)


class ResetMomentsState(NamedTuple):
    """State of `reset_moments`.

    Attributes:
      inner_state: state of the wrapped transformation.
      reset_step: number of updates (int32).
      metrics: `age`. See `stabjax.metrics`.
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

    The inner state is replaced by `inner.init(params)` before update number `every`,
    `2 every`, and so on. Any effect of a spike or NaN on the moments is therefore gone
    after at most `every` updates. Let `k` be the number of updates since the last
    reset. While `k < warmup_steps`, the updates are multiplied by
    `1 - 0.99 (1 + cos(pi k / (warmup_steps + 1))) / 2`.

    As in SPAM, a reset takes effect before the update. Stable-SPAM calls the same
    technique MoRet, but its implementation still uses the old moments at the update of
    the reset, together with the bias correction of new ones.

    Args:
      inner: an Optax transformation whose state contains moments. Schedule counts in
        its state would also be reset. Extra arguments are passed to `inner`.
      every: number of updates between resets, >= 0. Use 0 to disable. **Traceable.**
      warmup_steps: number of updates with a reduced factor after a reset, >= 0.
        Stable-SPAM uses 0 and SPAM uses 150. **Traceable.**

    Returns:
      A transformation with a `ResetMomentsState`. Its `update` requires `params`.
      Updates with non-finite gradients are counted as well. Any effect of NaN or
      differently scaled gradients on `inner` ends after at most `every` updates,
      followed by the warmup.

    Raises:
      ValueError: If `every` or `warmup_steps` is concrete and out of range or not a
        scalar, or if `params` is None.
      TypeError: If `every` or `warmup_steps` is not a number, or `inner` is not a
        transformation.

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
                "params must be passed to reset_moments, got None. "
                "Call update(updates, state, params)."
            )
        count = optax.safe_increment(state.reset_step)
        (every,), (warmup_steps,) = counts(jnp.int32), scalars(jnp.float32)
        was_reset, age = since_reset(count, every)
        # `cond` has no benefit: under `vmap` it becomes a `where` anyway.
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
      stable_adam_step: number of finite updates (int32).
      stable_adam_clips: number of updates with a clipped leaf (int32).
      stable_adam_mean: bias-corrected first moments.
      stable_adam_root: square roots of the bias-corrected second moments.
      metrics: `grad_norm`, `clipped`, `clip_fraction`. See `stabjax.metrics`.
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
    """Rescales updates with Adam and clips each leaf by its scaled gradient's RMS.

    Let `m` and `v` be the bias-corrected averages of `g` and `g^2`, including the
    current gradient. For each leaf with parameters `w`,

        u = (m / (sqrt(v) + eps) + weight_decay w) / max(1, rms / threshold)
        rms = sqrt(mean(g^2 / max(v, eps^2)))

    An `rms` above 1 indicates that the second moment lags behind the gradients.

    Args:
      b1: decay rate of `m`, in [0, 1). **Traceable.**
      b2: decay rate of `v`, in [0, 1). **Traceable.**
      eps: added to the denominator, >= 0. **Traceable.**
      threshold: maximum `rms` without clipping, >= 0. Use inf for plain Adam.
        **Traceable.**
      weight_decay: weight decay rate, >= 0. It is scaled down along with the update, as
        in the authors' StableAdamW. If None, `update` does not require `params`.
        **Traceable.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation with a `StableAdamState`. Place it before the learning rate. Only
      the update is clipped: spikes still affect the moments. A non-finite gradient
      turns every element into NaN and leaves the state unchanged. If gradients become
      permanently larger by a factor of 100, the updates return to within a factor of 2
      of their previous size after `1 / (1 - b1)` updates. If gradients become smaller
      by the same factor, this takes `ln 10^4 / (1 - b2)` updates.

    Raises:
      ValueError: If an argument is concrete and out of range or not a scalar, or if
        `params` is None and `weight_decay` is not.
      TypeError: If an argument is not a number, or a parameter is complex.

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
                    "params must be passed to use weight_decay, got None. "
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
    # Each quotient is at most 1 / sqrt(1 - b2), so squares do not overflow. If the
    # root is 0, x is 0 too. With `where`, XLA:CPU would write the quotients to memory.
    least = jnp.maximum(adam.eps.astype(dtype), np.finfo(dtype).tiny)
    squares = (x / jnp.maximum(root, least)) ** 2
    mean_square = over_devices(jnp.sum(squares), axes) / max(global_size(x, axes), 1)
    rms = safe_root(mean_square)
    factor = clip_factor(as_scaled(rms), threshold.astype(dtype))
    update = cast_back(apply_factor(direction, factor), jnp.result_type(g))
    return Moved(update, (mean, root), factor.exceeded)
