"""Clipping the gradient of each example before they are summed."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stabjax._arguments import check, is_concrete
from stabjax._clipping.numbers import checked
from stabjax._metrics import metric_key
from stabjax._norms import norm_dtype, norms_of_examples, scaled_norm, widened
from stabjax._scaling import apply_factor, as_scalar, cast_back, clip_factor
from stabjax._types import Number


class DifferentiallyPrivateAggregateState(NamedTuple):
    """State of `differentially_private_aggregate`."""

    rng_key: jax.Array  # uint32: the data of the key for the next update's noise
    metrics: dict[str, jax.Array]  # clip_fraction: of the examples


class AdaptiveQuantileClipState(NamedTuple):
    """State of `adaptive_quantile_clip`."""

    quantile_norm: jax.Array  # the threshold of the next update
    quantile_key: jax.Array | None  # uint32: the data of the key for its noise
    metrics: dict[str, jax.Array]  # max_norm, clip_fraction


def per_example_global_norm_clip(
    grads: optax.Updates, l2_norm_clip: Number
) -> tuple[optax.Updates, jax.Array]:
    """Clips each example's gradient by its global norm, and sums over the examples.

        sum_b g_b min(1, l2_norm_clip / |g_b|_2)

    The norm is that of all leaves of example b together; the sum is taken in float32 or
    wider. Inside `shard_map` each device clips and sums the examples that it holds.

    Args:
      grads: a tree whose leaves all have the examples along axis 0.
      l2_norm_clip: a number >= 0 or a scalar array. **Traceable.**

    Returns:
      The sum of the clipped gradients, and the number of examples that were clipped
      (int32). One example with a non-finite element makes the sum NaN.

    Raises:
      ValueError: the leaves do not share axis 0, or `l2_norm_clip` is concrete and
        negative or NaN.
      TypeError: `l2_norm_clip` is not a number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> grads = [jnp.array([[0, 0, 0], [0, 3, 4], [4, 0, 3], [3, 4, 0]])]
      >>> (total,), clipped = stabjax.per_example_global_norm_clip(grads, 1.25)
      >>> total.tolist(), int(clipped)
      ([1.75, 1.75, 1.75], 3)

    References:
      Abadi et al., Deep learning with differential privacy, 2016,
      https://arxiv.org/abs/1607.00133
    """
    sums, clipped = _clipped_sums("per_example_global_norm_clip", grads, l2_norm_clip)
    return _cast_like(grads, sums), clipped


def per_example_layer_norm_clip(
    grads: optax.Updates, global_l2_norm_clip: Number, uniform: bool = True
) -> tuple[optax.Updates, optax.Updates]:
    """Clips each example's gradient layer by layer, and sums over the examples.

    Like `stabjax.per_example_global_norm_clip` of each leaf by itself. Of the bound
    C, a leaf has C / sqrt(K) for K leaves if `uniform`, or else C sqrt(D_i / D), where
    it holds D_i of the D parameters.

    Args:
      grads: a tree whose leaves all have the examples along axis 0.
      global_l2_norm_clip: C, a number >= 0 or a scalar array. **Traceable.**
      uniform: whether all leaves have the same bound. **Static.**

    Returns:
      The sums of the clipped gradients, and for each leaf the number of examples that
      were clipped (int32), both of the structure of `grads`.

    Raises:
      ValueError: the leaves do not share axis 0, or `global_l2_norm_clip` is concrete
        and negative or NaN.
      TypeError: `global_l2_norm_clip` is not a number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> grads = {"w": jnp.array([[3.0, 4.0], [0.3, 0.4]]), "b": jnp.array([2.0, 1.0])}
      >>> sums, clipped = stabjax.per_example_layer_norm_clip(grads, 2**0.5)
      >>> [round(float(x), 2) for x in sums["w"]], float(sums["b"])
      ([0.9, 1.2], 2.0)
      >>> {name: int(n) for name, n in clipped.items()}
      {'b': 1, 'w': 1}

    References:
      McMahan et al., Learning differentially private recurrent language models, 2018,
      https://arxiv.org/abs/1710.06963
    """
    _check_examples("per_example_layer_norm_clip", grads)
    check("global_l2_norm_clip", global_l2_norm_clip, ">= 0")
    leaves, structure = jax.tree.flatten(grads)
    sizes = [math.prod(leaf.shape[1:]) for leaf in leaves]
    total = max(sum(sizes), 1)
    parts = [1 / len(leaves) if uniform else size / total for size in sizes]
    pairs = [
        per_example_global_norm_clip(leaf, global_l2_norm_clip * part**0.5)
        for leaf, part in zip(leaves, parts, strict=True)
    ]
    sums, clipped = zip(*pairs, strict=True)
    return jax.tree.unflatten(structure, sums), jax.tree.unflatten(structure, clipped)


def differentially_private_aggregate(
    l2_norm_clip: Number, noise_multiplier: Number, key: jax.Array | np.ndarray | int
) -> optax.GradientTransformation:
    """Averages clipped per-example gradients and adds noise: the update of DP-SGD.

        u = (sum_b g_b min(1, C / |g_b|_2) + N(0, z^2 C^2)) / B

    over the B examples, with the numerical care of
    `stabjax.per_example_global_norm_clip`. Noise is drawn in float32 or wider.

    Args:
      l2_norm_clip: C, a number >= 0 or a scalar array. **Traceable.**
      noise_multiplier: z, a number >= 0 or a scalar array. **Traceable.**
      key: what `jax.random.key` or `PRNGKey` returns, or an integer that seeds it; the
        state carries it from update to update.

    Returns:
      A transformation to stand first, whose gradients have the examples along axis 0,
      and whose updates do not. One example with a non-finite element makes the update
      NaN; the next update works. The metric, the fraction of examples that were
      clipped, is not private.

    Raises:
      ValueError: `l2_norm_clip` or `noise_multiplier` is concrete and negative or NaN,
        or not a scalar; or the leaves do not share axis 0.
      TypeError: either is not a number.

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
        data = jnp.array(jax.random.key_data(typed))  # its own: a state may be donated
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
        limit, z = numbers(norm_dtype(jax.tree.leaves(updates)))
        sums, clipped = _clipped_sums(name, updates, limit)
        std = jnp.where(z == 0, 0, z * limit)  # and not NaN if the limit is inf
        data, noise_key = _next_key(state.rng_key, typed)
        size = _examples(updates)
        fraction = clipped.astype(jnp.float32) / size
        means = _cast_like(updates, _noisy_means(sums, std, size, noise_key))
        metrics = {metric_key(name, "clip_fraction"): fraction}
        return means, DifferentiallyPrivateAggregateState(data, metrics)

    return optax.GradientTransformation(init_fn, update_fn)


def adaptive_quantile_clip(
    init_norm: Number = 0.1,
    target_quantile: Number = 0.5,
    learning_rate: Number = 0.2,
    noise_multiplier: Number = 0.0,
    count_noise: Number = 0.0,
    key: jax.Array | np.ndarray | int | None = None,
) -> optax.GradientTransformation:
    """Averages per-example gradients that are clipped at a quantile of their norms.

    Like `stabjax.differentially_private_aggregate`, with a threshold C that follows the
    norms of the B examples:

        b = (#{|g_b| <= C} + N(0, s^2)) / B,  C <- C exp(-learning_rate (b - q))

    The sum has noise of standard deviation z' C, z' = (z^-2 - (2 s)^-2)^(-1/2), so that
    both together cost the privacy of noise z.

    Args:
      init_norm: the first C, >= 0. **Traceable.**
      target_quantile: q, the fraction of examples that is not clipped, in [0, 1].
        **Traceable.**
      learning_rate: a number >= 0. **Traceable.**
      noise_multiplier: z, 0 or in (0, 2 s). **Traceable.**
      count_noise: s, >= 0; the authors use B / 20. **Traceable.**
      key: what `jax.random.key` or `PRNGKey` returns, or an integer that seeds it;
        None: no noise.

    Returns:
      A transformation with an `AdaptiveQuantileClipState`, to stand first, whose
      gradients have the examples along axis 0, and whose updates do not. One example
      with a non-finite element makes the update NaN and leaves the threshold unchanged.
      Without `count_noise` an update moves the threshold by at most a factor
      exp(learning_rate q) up and exp(learning_rate (1 - q)) down: to follow gradients
      that grow a hundredfold takes ln(100) / (learning_rate q) updates, 47 with the
      defaults, and as many after a fall. Its metrics are as private as the threshold.

    Raises:
      ValueError: an argument is concrete and out of range, or not a scalar; there is
        noise and no key; or the leaves do not share axis 0.
      TypeError: an argument is not a number.

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
        dtype = norm_dtype(jax.tree.leaves(params))
        # Each its own array: a state may be donated, and no buffer twice.
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
        sums, clipped = _clipped_sums(name, updates, norm)
        size = _examples(updates)
        finite = jnp.isfinite(scaled_norm(sums, axis_name=()).value)
        below = 1 - clipped.astype(dtype) / size
        std, data, noise_key = jnp.zeros((), dtype), None, None
        if typed is not None and state.quantile_key is not None:
            data, noise_key = _next_key(state.quantile_key, typed)
            count_key, noise_key = jax.random.split(noise_key)
            below = below + s * jax.random.normal(count_key, (), dtype) / size
            std = norm * _noise_beside_count(z, s)
        moved = jnp.where(finite, norm * jnp.exp(-rate * (below - q)), norm)
        means = _cast_like(updates, _noisy_means(sums, std, size, noise_key))
        return means, AdaptiveQuantileClipState(moved, data, metrics(norm, 1 - below))

    return optax.GradientTransformation(init_fn, update_fn)


def _clipped_sums(
    function: str, grads: optax.Updates, l2_norm_clip: Number
) -> tuple[optax.Updates, jax.Array]:
    """Sums of clipped gradients, float32 or wider, and how many were clipped."""
    _check_examples(function, grads)
    check("l2_norm_clip", l2_norm_clip, ">= 0")
    # No sum over devices: their types vary because they hold other examples.
    norms = norms_of_examples(jax.tree.leaves(grads))
    limit = as_scalar("l2_norm_clip", l2_norm_clip, norms.value.dtype)
    factor = clip_factor(norms, limit)

    def clipped_sum(g: Number) -> jax.Array:
        wide = widened(g, factor.first.dtype)
        return jnp.sum(jax.vmap(apply_factor)(wide, factor), axis=0)

    return jax.tree.map(clipped_sum, grads), jnp.sum(factor.exceeded, dtype=jnp.int32)


def _cast_like(grads: optax.Updates, sums: optax.Updates) -> optax.Updates:
    return jax.tree.map(lambda g, x: cast_back(x, jnp.asarray(g).dtype), grads, sums)


def _check_examples(function: str, grads: optax.Updates) -> None:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(grads)]
    if not shapes or len({shape[:1] for shape in shapes}) > 1 or () in shapes:
        raise ValueError(
            f"{function}: every leaf of grads must have the examples along axis 0, "
            f"got shapes {shapes}."
        )


def _examples(grads: optax.Updates) -> int:
    """The number of examples, or 1 if there are none, to divide by."""
    return max(jnp.shape(jax.tree.leaves(grads)[0])[0], 1)


def _noisy_means(
    sums: optax.Updates, std: jax.Array, size: int, key: jax.Array | None
) -> optax.Updates:
    """(sum + noise) / size, every leaf with its own key."""
    leaves, structure = jax.tree.flatten(sums)
    if key is not None:
        keys = jax.random.split(key, len(leaves))
        leaves = [
            x + std.astype(x.real.dtype) * jax.random.normal(k, x.shape, x.dtype)
            for x, k in zip(leaves, keys, strict=True)
        ]
    return jax.tree.unflatten(structure, [x / size for x in leaves])


def _typed_key(key: jax.Array | np.ndarray | int) -> jax.Array:
    """A key from a new or an old one, or from a seed."""
    if isinstance(key, int | np.integer):
        return jax.random.key(int(key))
    array = jnp.asarray(key)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array
    typed: jax.Array = jax.random.wrap_key_data(array)
    return typed


def _next_key(data: jax.Array, like: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The data of the key for the next update, and the key of this one."""
    key = jax.random.wrap_key_data(data, impl=jax.random.key_impl(like))
    following, now = jax.random.split(key)
    return jax.random.key_data(following), now


def _noise_beside_count(z: jax.Array, s: jax.Array) -> jax.Array:
    """(z^-2 - (2 s)^-2)^(-1/2), and NaN where the count reveals more than that."""
    some = z > 0
    ratio = jnp.where(some, z / jnp.where(some, 2 * s, 1), 0)
    private = ratio < 1
    root = jnp.sqrt(jnp.where(private, 1 - ratio * ratio, 1))
    return jnp.where(private, z / root, jnp.nan)


def _check_noise(noise_multiplier: Number, count_noise: Number, key: object) -> None:
    known = is_concrete(noise_multiplier, count_noise)
    if known and 0 < float(noise_multiplier) >= 2 * float(count_noise):
        raise ValueError(
            "noise_multiplier must be 0 or below 2 count_noise, or the count reveals "
            f"more than it allows, got {noise_multiplier} and {count_noise}."
        )
    if key is None and not (known and float(count_noise) == 0):
        raise ValueError("key must be a random key where there is noise, got None.")
