"""Clipped and noised gradient averages for differential privacy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from stabjax._arguments import is_concrete
from stabjax._axes import Axes
from stabjax._clipping.numbers import checked
from stabjax._clipping.per_example import (
    axes_of_parameters,
    cast_like,
    check_examples,
    clipped_sums,
    number_of_examples,
)
from stabjax._metrics import metric_key
from stabjax._norms import norm_dtype, norm_of_leaves
from stabjax._types import Number


class DifferentiallyPrivateAggregateState(NamedTuple):
    """State of `differentially_private_aggregate`.

    Attributes:
      rng_key: key data for the noise of the next update (uint32).
      metrics: `clip_fraction`. See `stabjax.metrics`.
    """

    rng_key: jax.Array
    metrics: dict[str, jax.Array]


class AdaptiveQuantileClipState(NamedTuple):
    """State of `adaptive_quantile_clip`.

    Attributes:
      quantile_norm: threshold of the next update.
      quantile_key: key data for noise (uint32), or None without noise.
      metrics: `max_norm`, `clip_fraction`. See `stabjax.metrics`.
    """

    quantile_norm: jax.Array
    quantile_key: jax.Array | None
    metrics: dict[str, jax.Array]


def differentially_private_aggregate(
    l2_norm_clip: Number,
    noise_multiplier: Number,
    key: jax.Array | np.ndarray | int,
    *,
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Averages clipped per-example gradients and adds noise (DP-SGD).

        u = (sum_b g_b min(1, C / |g_b|_2) + N(0, z^2 C^2)) / B

    B is the number of examples. Norms are computed as in
    `stabjax.per_example_global_norm_clip`, without overflow. Noise is sampled in
    float32 or wider.

    Args:
      l2_norm_clip: C, a number >= 0 or a scalar array. **Traceable.**
      noise_multiplier: z, a number >= 0 or a scalar array. **Traceable.**
      key: a key from `jax.random.key` or `jax.random.PRNGKey`, or an integer seed. The
        state stores the key for the next update. **Traceable.**
      axis_name: see `stabjax.per_example_global_norm_clip`. With `()`, each device
        averages its own examples, and all devices add the same noise, so averaging over
        devices does not reduce it. **Static.**

    Returns:
      A transformation that averages per-example gradients, with examples along axis 0
      of every leaf. Place it at the beginning of a chain. If any example has a
      non-finite element, the update is NaN, but later updates are not affected. The
      metric is the fraction of clipped examples and is not private.

    Raises:
      ValueError: If `l2_norm_clip` or `noise_multiplier` is concrete and negative or
        NaN, or not a scalar, or if the leaves have different sizes along axis 0.
      TypeError: If `l2_norm_clip` or `noise_multiplier` is not a number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> dp = stabjax.differentially_private_aggregate(1.0, 0.0, key=0)
      >>> grads = jnp.array([[3.0, 4.0], [0.6, 0.0]])
      >>> updates, _ = dp.update(grads, dp.init(jnp.zeros(2)))
      >>> [round(float(u), 4) for u in updates]
      [0.6, 0.4]

    References:
      Abadi et al., Deep learning with differential privacy, 2016,
      https://arxiv.org/abs/1607.00133
    """
    numbers = checked(
        l2_norm_clip=(l2_norm_clip, ">= 0"), noise_multiplier=(noise_multiplier, ">= 0")
    )
    typed = _typed_key(key)
    name = "differentially_private_aggregate"

    def init_fn(params: optax.Params) -> DifferentiallyPrivateAggregateState:
        del params
        data = jnp.array(jax.random.key_data(typed))  # a copy: states may be donated
        metrics = {metric_key(name, "clip_fraction"): jnp.zeros((), jnp.float32)}
        return DifferentiallyPrivateAggregateState(data, metrics)

    def update_fn(
        updates: optax.Updates,
        state: DifferentiallyPrivateAggregateState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, DifferentiallyPrivateAggregateState]:
        del params
        if not jax.tree.leaves(updates):
            return updates, state
        check_examples(name, updates)
        limit, z = numbers(norm_dtype(updates))
        sums, clipped = clipped_sums(updates, limit, axis_name)
        std = jnp.where(z == 0, 0, z * limit)  # 0 * inf would be NaN
        data, noise_key = _next_key(state.rng_key, typed)
        size = number_of_examples(updates)
        fraction = clipped.astype(jnp.float32) / size
        axes = axes_of_parameters(updates, axis_name)
        means = _noisy_means(sums, std, size, noise_key, axes)
        means = cast_like(updates, means)
        metrics = {metric_key(name, "clip_fraction"): fraction}
        return means, DifferentiallyPrivateAggregateState(data, metrics)

    return optax.GradientTransformation(init_fn, update_fn)


def adaptive_quantile_clip(
    init_norm: Number = 0.1,
    target_quantile: Number = 0.5,
    learning_rate: Number = 0.2,
    *,
    noise_multiplier: Number = 0.0,
    count_noise: Number = 0.0,
    key: jax.Array | np.ndarray | int | None = None,
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Averages per-example gradients clipped at a running quantile of their norms.

    Like `stabjax.differentially_private_aggregate`, but with a threshold C that adapts
    to the norms of the B examples:

        b = (#{|g_b| <= C} + N(0, s^2)) / B,  C <- C exp(-learning_rate (b - q))

    The noise added to the sum of the gradients has standard deviation z' C with

        z' = (z^-2 - (2 s)^-2)^(-1/2)

    so that the total privacy cost equals that of the noise multiplier z.

    Args:
      init_norm: initial C, >= 0. **Traceable.**
      target_quantile: q, the target fraction of examples that are not clipped, in [0,
        1]. **Traceable.**
      learning_rate: a number >= 0. **Traceable.**
      noise_multiplier: z, 0 or in (0, 2 s). **Traceable.**
      count_noise: s, >= 0. The authors use B / 20. **Traceable.**
      key: a key from `jax.random.key` or `jax.random.PRNGKey`, or an integer seed. Use
        None for no noise. **Traceable.**
      axis_name: see `stabjax.per_example_global_norm_clip`. **Static.**

    Returns:
      A transformation with an `AdaptiveQuantileClipState` that averages per-example
      gradients, with examples along axis 0 of every leaf. Place it at the beginning of
      a chain. If any example has a non-finite element, the update is NaN and the
      threshold is unchanged. Without `count_noise`, each update changes the threshold
      by a factor of at most exp(learning_rate q) upwards and exp(learning_rate (1 - q))
      downwards. With the default arguments, the threshold takes 47 updates (ln(100) /
      (learning_rate q)) to adapt to gradients that become 100 times larger or smaller.
      The metrics are as private as the threshold.

    Raises:
      ValueError: If an argument is concrete and out of range or not a scalar, if there
        is noise but no key, or if the leaves have different sizes along axis 0.
      TypeError: If an argument is not a number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.adaptive_quantile_clip(init_norm=1.0)
      >>> state = clipping.init(jnp.zeros(1))
      >>> norms = jnp.array([[0.5], [2.0], [3.0], [4.0]])
      >>> updates, state = clipping.update(norms, state)
      >>> round(float(updates[0]), 4), round(float(state.quantile_norm), 4)
      (0.875, 1.0513)

    References:
      Andrew et al., Differentially private learning with adaptive clipping, 2021,
      https://arxiv.org/abs/1905.03871
    """
    numbers = checked(
        init_norm=(init_norm, ">= 0"),
        target_quantile=(target_quantile, "in [0, 1]"),
        learning_rate=(learning_rate, ">= 0"),
        noise_multiplier=(noise_multiplier, ">= 0"),
        count_noise=(count_noise, ">= 0"),
    )
    _check_noise(noise_multiplier, count_noise, key)
    typed = None if key is None else _typed_key(key)
    name = "adaptive_quantile_clip"

    def metrics(norm: jax.Array, fraction: jax.Array) -> dict[str, jax.Array]:
        return {
            metric_key(name, "max_norm"): norm,
            metric_key(name, "clip_fraction"): fraction,
        }

    def init_fn(params: optax.Params) -> AdaptiveQuantileClipState:
        dtype = norm_dtype(params)
        # A donated state must not use the same buffer twice.
        norm, shown = (jnp.array(numbers(dtype)[0]) for _ in range(2))
        data = None if typed is None else jnp.array(jax.random.key_data(typed))
        return AdaptiveQuantileClipState(
            norm, data, metrics(shown, jnp.zeros((), dtype))
        )

    def update_fn(
        updates: optax.Updates,
        state: AdaptiveQuantileClipState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, AdaptiveQuantileClipState]:
        del params
        if not jax.tree.leaves(updates):
            return updates, state
        norm, dtype = state.quantile_norm, state.quantile_norm.dtype
        _, q, rate, z, s = numbers(dtype)
        check_examples(name, updates)
        sums, clipped = clipped_sums(updates, norm, axis_name)
        size = number_of_examples(updates)
        axes = axes_of_parameters(updates, axis_name)
        finite = jnp.isfinite(
            norm_of_leaves(jax.tree.leaves(sums), axes, 2, False).value
        )
        below = 1 - clipped.astype(dtype) / size
        std, data, noise_key = jnp.zeros((), dtype), None, None
        if typed is not None and state.quantile_key is not None:
            data, noise_key = _next_key(state.quantile_key, typed)
            count_key, noise_key = jax.random.split(noise_key)
            below = below + s * jax.random.normal(count_key, (), dtype) / size
            std = norm * _noise_beside_count(z, s)
        moved = jnp.where(finite, norm * jnp.exp(-rate * (below - q)), norm)
        means = _noisy_means(sums, std, size, noise_key, axes)
        means = cast_like(updates, means)
        return means, AdaptiveQuantileClipState(moved, data, metrics(norm, 1 - below))

    return optax.GradientTransformation(init_fn, update_fn)


def _noisy_means(
    sums: optax.Updates,
    std: jax.Array,
    size: int,
    key: jax.Array | None,
    axes: tuple[Axes, ...],
) -> optax.Updates:
    """Computes (sum + noise) / size, with a separate key for each leaf and shard."""
    leaves, structure = jax.tree.flatten(sums)
    if key is not None:
        keys = list(jax.random.split(key, len(leaves)))
        for i, names in enumerate(axes):
            for name in names:
                keys[i] = jax.random.fold_in(keys[i], lax.axis_index(name))
        leaves = [
            x + std.astype(x.real.dtype) * jax.random.normal(k, x.shape, x.dtype)
            for x, k in zip(leaves, keys, strict=True)
        ]
    return jax.tree.unflatten(structure, [x / size for x in leaves])


def _typed_key(key: jax.Array | np.ndarray | int) -> jax.Array:
    """Converts a typed key, a legacy key or a seed to a typed key."""
    if isinstance(key, int | np.integer):
        return jax.random.key(int(key))
    array = jnp.asarray(key)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array
    typed: jax.Array = jax.random.wrap_key_data(array)
    return typed


def _next_key(data: jax.Array, like: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits a key into data for the next update and a key for this one."""
    key = jax.random.wrap_key_data(data, impl=jax.random.key_impl(like))
    following, now = jax.random.split(key)
    return jax.random.key_data(following), now


def _noise_beside_count(z: jax.Array, s: jax.Array) -> jax.Array:
    """Computes (z^-2 - (2 s)^-2)^(-1/2), or NaN if the count is less private than z."""
    some = z > 0
    ratio = jnp.where(some, z / jnp.where(some, 2 * s, 1), 0)
    private = ratio < 1
    root = jnp.sqrt(jnp.where(private, 1 - ratio * ratio, 1))
    return jnp.where(private, z / root, jnp.nan)


def _check_noise(noise_multiplier: Number, count_noise: Number, key: object) -> None:
    known = is_concrete(noise_multiplier, count_noise)
    if known and 0 < float(noise_multiplier) >= 2 * float(count_noise):
        raise ValueError(
            "noise_multiplier must be 0 or below 2 * count_noise, got "
            f"{noise_multiplier} and {count_noise}. Otherwise the noisy count alone "
            "uses up the privacy budget."
        )
    if key is None and not (known and float(count_noise) == 0):
        raise ValueError("key must be a random key if there is noise, got None.")
