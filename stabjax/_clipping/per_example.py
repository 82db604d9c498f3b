"""Clipping the gradient of each example before they are summed."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from stabjax._clipping.threshold import check_threshold
from stabjax._norms import norm_dtype, scaled_norm, widened
from stabjax._scaling import apply_factor, as_scalar, cast_back, clip_factor


class DifferentiallyPrivateAggregateState(NamedTuple):
    """State of :func:`differentially_private_aggregate`."""

    rng_key: jax.Array  # uint32: the data of the key for the next update's noise
    metrics: dict[str, jax.Array]  # clip_fraction: of the examples


class AdaptiveQuantileClipState(NamedTuple):
    """State of :func:`adaptive_quantile_clip`."""

    quantile_norm: jax.Array  # the threshold of the next update
    quantile_key: jax.Array | None  # uint32: the data of the key for its noise
    metrics: dict[str, jax.Array]  # max_norm, clip_fraction


def per_example_global_norm_clip(
    grads: optax.Updates, l2_norm_clip: ArrayLike
) -> tuple[optax.Updates, jax.Array]:
    r"""Clips each example's gradient by its global norm, and sums over the examples.

    :math:`\sum_b g_b \min(1, c / \|g_b\|_2)`, the norm over all leaves of example
    :math:`b` together; the sum in float32 or wider.

    Args:
      grads: a tree whose leaves all have the examples along axis 0.
      l2_norm_clip: :math:`c \ge 0`, a number or scalar array; traceable.

    Returns:
      The sum of the clipped gradients, and the number of examples that were clipped
      (int32). One example with a non-finite entry makes the sum NaN.

    Raises:
      ValueError: if the leaves have no common axis 0, or ``l2_norm_clip`` is concrete
        and negative or NaN.
      TypeError: if ``l2_norm_clip`` is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> grads = [jnp.array([[0, 0, 0], [0, 3, 4], [4, 0, 3], [3, 4, 0]])]
      >>> (total,), clipped = stabjax.per_example_global_norm_clip(grads, 1.25)
      >>> total.tolist(), int(clipped)
      ([1.75, 1.75, 1.75], 3)

    Source: Abadi et al., Deep learning with differential privacy, 2016.
    """
    sums, clipped = _clipped_sums("per_example_global_norm_clip", grads, l2_norm_clip)
    return _cast_like(grads, sums), clipped


def per_example_layer_norm_clip(
    grads: optax.Updates, global_l2_norm_clip: ArrayLike, uniform: bool = True
) -> tuple[optax.Updates, optax.Updates]:
    r"""Clips each example's gradient layer by layer, and sums over the examples.

    As :func:`stabjax.per_example_global_norm_clip` of each leaf by itself, with the
    bound :math:`C / \sqrt{K}` for :math:`K` leaves, or :math:`C \sqrt{D_i / D}` for a
    leaf that holds :math:`D_i` of the :math:`D` parameters.

    Args:
      grads: a tree whose leaves all have the examples along axis 0.
      global_l2_norm_clip: :math:`C \ge 0`, a number or scalar array; traceable.
      uniform: whether all leaves have the same bound; static.

    Returns:
      The sums of the clipped gradients, and for each leaf the number of examples that
      were clipped (int32), both of the structure of ``grads``.

    Raises:
      ValueError: if the leaves have no common axis 0, or ``global_l2_norm_clip`` is
        concrete and negative or NaN.
      TypeError: if ``global_l2_norm_clip`` is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> grads = {"w": jnp.array([[3.0, 4.0], [0.3, 0.4]]), "b": jnp.array([2.0, 1.0])}
      >>> sums, clipped = stabjax.per_example_layer_norm_clip(grads, 2**0.5)
      >>> [round(float(x), 2) for x in sums["w"]], float(sums["b"])
      ([0.9, 1.2], 2.0)
      >>> {name: int(n) for name, n in clipped.items()}
      {'b': 1, 'w': 1}

    Source: McMahan et al., Learning differentially private recurrent language models,
    2018.
    """
    _check_examples("per_example_layer_norm_clip", grads)
    check_threshold("global_l2_norm_clip", global_l2_norm_clip)
    leaves, structure = jax.tree.flatten(grads)
    sizes = [math.prod(leaf.shape[1:]) for leaf in leaves]
    total = max(sum(sizes), 1)
    shares = [1 / len(leaves) if uniform else size / total for size in sizes]
    pairs = [
        per_example_global_norm_clip(leaf, global_l2_norm_clip * share**0.5)
        for leaf, share in zip(leaves, shares, strict=True)
    ]
    sums, clipped = zip(*pairs, strict=True)
    return jax.tree.unflatten(structure, sums), jax.tree.unflatten(structure, clipped)


def differentially_private_aggregate(
    l2_norm_clip: ArrayLike, noise_multiplier: ArrayLike, key: ArrayLike
) -> optax.GradientTransformation:
    r"""Means of clipped per-example gradients, with noise: the update of DP-SGD.

    :math:`u = \frac1B (\sum_b g_b \min(1, C / \|g_b\|_2) + \mathcal N(0, z^2 C^2))`
    over the :math:`B` examples, with the care of
    :func:`stabjax.per_example_global_norm_clip`; noise is drawn in float32 or wider.

    Args:
      l2_norm_clip: :math:`C \ge 0`, a number or scalar array; traceable.
      noise_multiplier: :math:`z \ge 0`, likewise.
      key: what ``jax.random.key`` or ``PRNGKey`` gives, or an integer that seeds it;
        the state carries it on from update to update.

    Returns:
      A transformation to stand first, whose gradients have the examples along axis 0,
      and whose updates do not. One example with a non-finite entry makes the update
      NaN; the next one works. The metric, the share of examples that were clipped, is
      not private.

    Raises:
      ValueError: if ``l2_norm_clip`` or ``noise_multiplier`` is concrete and negative
        or NaN, or no scalar, or if the leaves have no common axis 0.
      TypeError: if one is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> dp = stabjax.differentially_private_aggregate(1.0, 0.0, key=0)
      >>> grads = jnp.array([[3.0, 4.0], [0.6, 0.0]])
      >>> updates, _ = dp.update(grads, dp.init(jnp.zeros(2)))
      >>> [round(float(u), 4) for u in updates]
      [0.6, 0.4]

    Source: Abadi et al., Deep learning with differential privacy, 2016; Optax has the
    same name.
    """
    check_threshold("l2_norm_clip", l2_norm_clip)
    check_threshold("noise_multiplier", noise_multiplier)
    typed = _typed_key(key)
    name = "differentially_private_aggregate"

    def seen(fraction: jax.Array) -> dict[str, jax.Array]:
        return {f"{name}:clip_fraction": fraction}

    def init_fn(params: optax.Params) -> DifferentiallyPrivateAggregateState:
        del params
        data = jnp.array(jax.random.key_data(typed))  # its own: a state may be donated
        fraction = jnp.zeros((), jnp.float32)
        return DifferentiallyPrivateAggregateState(data, seen(fraction))

    def update_fn(
        updates: optax.Updates,
        state: DifferentiallyPrivateAggregateState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, DifferentiallyPrivateAggregateState]:
        del params
        if not jax.tree.leaves(updates):
            return updates, state
        sums, clipped = _clipped_sums(name, updates, l2_norm_clip)
        dtype = norm_dtype(jax.tree.leaves(updates))
        std = as_scalar("noise_multiplier", noise_multiplier, dtype)
        std = std * as_scalar("l2_norm_clip", l2_norm_clip, dtype)
        data, noise_key = _next_key(state.rng_key, typed)
        size = _examples(updates)
        fraction = clipped.astype(jnp.float32) / size
        means = _noisy_means(sums, std, size, noise_key)
        means = _cast_like(updates, means)
        return means, DifferentiallyPrivateAggregateState(data, seen(fraction))

    return optax.GradientTransformation(init_fn, update_fn)


def adaptive_quantile_clip(
    init_norm: ArrayLike = 0.1,
    target_quantile: ArrayLike = 0.5,
    learning_rate: ArrayLike = 0.2,
    noise_multiplier: ArrayLike = 0.0,
    count_noise: ArrayLike = 0.0,
    key: ArrayLike | None = None,
) -> optax.GradientTransformation:
    r"""Means of per-example gradients clipped at a quantile of their norms.

    As :func:`stabjax.differentially_private_aggregate` with a threshold that follows:
    of :math:`B` examples clipped at :math:`C`, a share :math:`b = \frac1B (\#\{\|g_b\|
    \le C\} + \mathcal N(0, \sigma_b^2))` was not; the next threshold is :math:`C
    e^{-\eta (b - q)}`. The sum has noise of :math:`z_\Delta C`, :math:`z_\Delta =
    (z^{-2} - (2 \sigma_b)^{-2})^{-1/2}`, so that both together cost the privacy of
    noise :math:`z`.

    Args:
      init_norm: the first :math:`C \ge 0`; traceable.
      target_quantile: :math:`q`, from 0 to 1, the share that is not to be clipped;
        traceable.
      learning_rate: :math:`\eta \ge 0`; traceable.
      noise_multiplier: :math:`z`, below :math:`2 \sigma_b` or 0; traceable.
      count_noise: :math:`\sigma_b`, the authors use a twentieth of :math:`B`;
        traceable.
      key: what ``jax.random.key`` or ``PRNGKey`` gives, or an integer that seeds it;
        None: no noise.

    Returns:
      A transformation with an :class:`AdaptiveQuantileClipState`, to stand first, whose
      gradients have the examples along axis 0, and whose updates do not. One example
      with a non-finite entry makes the update NaN and leaves the threshold as it is:
      the next update works. The threshold moves by no more than a factor
      :math:`e^{\eta q}` up and :math:`e^{\eta (1 - q)}` down an update (without
      ``count_noise``): to follow gradients that grew a hundredfold for good takes
      :math:`\ln 100 / (\eta q)` updates, 47 with the defaults, and as many after a
      fall. Its metrics are as private as the threshold.

    Raises:
      ValueError: if an argument is concrete and out of its range, or no scalar, if
        there is noise and no key, or if the leaves have no common axis 0.
      TypeError: if one is no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.adaptive_quantile_clip(init_norm=1.0)
      >>> state = clipping.init(jnp.zeros(1))
      >>> norms = jnp.array([[0.5], [2.0], [3.0], [4.0]])
      >>> updates, state = clipping.update(norms, state)
      >>> round(float(updates[0]), 4), round(float(state.quantile_norm), 4)
      (0.875, 1.0513)

    Source: Andrew et al., Differentially private learning with adaptive clipping, 2021.
    """
    check_threshold("init_norm", init_norm)
    check_threshold("learning_rate", learning_rate)
    _check_quantile(target_quantile)
    _check_noise(noise_multiplier, count_noise, key)
    typed = None if key is None else _typed_key(key)
    name = "adaptive_quantile_clip"

    def seen(norm: jax.Array, fraction: jax.Array) -> dict[str, jax.Array]:
        return {
            f"{name}:max_norm": norm,
            f"{name}:clip_fraction": fraction,
        }

    def init_fn(params: optax.Params) -> AdaptiveQuantileClipState:
        dtype = norm_dtype(jax.tree.leaves(params))
        norm = jnp.array(as_scalar("init_norm", init_norm, dtype))
        data = None if typed is None else jnp.array(jax.random.key_data(typed))
        fraction = jnp.zeros((), dtype)
        return AdaptiveQuantileClipState(norm, data, seen(jnp.array(norm), fraction))

    def update_fn(
        updates: optax.Updates,
        state: AdaptiveQuantileClipState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, AdaptiveQuantileClipState]:
        del params
        if not jax.tree.leaves(updates):
            return updates, state
        norm, dtype = state.quantile_norm, state.quantile_norm.dtype
        sums, clipped = _clipped_sums(name, updates, norm)
        size = _examples(updates)
        finite = jnp.isfinite(scaled_norm(sums).value)
        share = 1 - clipped.astype(dtype) / size
        std, data, noise_key = jnp.zeros((), dtype), None, None
        if typed is not None and state.quantile_key is not None:
            data, noise_key = _next_key(state.quantile_key, typed)
            count_key, noise_key = jax.random.split(noise_key)
            z = as_scalar("noise_multiplier", noise_multiplier, dtype)
            sigma = as_scalar("count_noise", count_noise, dtype)
            share = share + sigma * jax.random.normal(count_key, (), dtype) / size
            std = norm * _noise_beside_count(z, sigma)
        q = as_scalar("target_quantile", target_quantile, dtype)
        eta = as_scalar("learning_rate", learning_rate, dtype)
        moved = jnp.where(finite, norm * jnp.exp(-eta * (share - q)), norm)
        means = _cast_like(updates, _noisy_means(sums, std, size, noise_key))
        return means, AdaptiveQuantileClipState(moved, data, seen(norm, 1 - share))

    return optax.GradientTransformation(init_fn, update_fn)


def _clipped_sums(
    function: str, grads: optax.Updates, l2_norm_clip: ArrayLike
) -> tuple[optax.Updates, jax.Array]:
    """Sums of clipped gradients, float32 or wider, and how many were clipped."""
    _check_examples(function, grads)
    check_threshold("l2_norm_clip", l2_norm_clip)
    norms = jax.vmap(scaled_norm)(grads)
    limit = as_scalar("l2_norm_clip", l2_norm_clip, norms.value.dtype)
    by = jax.vmap(clip_factor, in_axes=(0, None))(norms, limit)

    def clipped_sum(g: ArrayLike) -> jax.Array:
        wide = widened(g, by.first.dtype)
        return jnp.sum(jax.vmap(apply_factor)(wide, by), axis=0)

    return jax.tree.map(clipped_sum, grads), jnp.sum(by.exceeded, dtype=jnp.int32)


def _cast_like(grads: optax.Updates, sums: optax.Updates) -> optax.Updates:
    return jax.tree.map(lambda g, x: cast_back(x, jnp.asarray(g).dtype), grads, sums)


def _check_examples(function: str, grads: optax.Updates) -> None:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(grads)]
    if not shapes or len({shape[:1] for shape in shapes}) > 1 or () in shapes:
        raise ValueError(
            f"{function}: every leaf of grads must have the examples along axis 0, "
            f"got leaves of shapes {shapes}"
        )


def _examples(grads: optax.Updates) -> int:
    """How many there are, and 1 of none, to divide by."""
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


def _typed_key(key: ArrayLike) -> jax.Array:
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


def _noise_beside_count(z: jax.Array, sigma: jax.Array) -> jax.Array:
    """(z^-2 - (2 sigma)^-2)^(-1/2), and NaN where the count reveals more than that."""
    some = z > 0
    ratio = jnp.where(some, z / jnp.where(some, 2 * sigma, 1), 0)
    private = ratio < 1
    root = jnp.sqrt(jnp.where(private, 1 - ratio * ratio, 1))
    return jnp.where(private, z / root, jnp.nan)


def _check_noise(noise_multiplier: Any, count_noise: Any, key: Any) -> None:
    check_threshold("noise_multiplier", noise_multiplier)
    check_threshold("count_noise", count_noise)
    known = not any(
        isinstance(x, jax.core.Tracer) for x in (noise_multiplier, count_noise)
    )
    if known and 0 < float(noise_multiplier) >= 2 * float(count_noise):
        raise ValueError(
            "noise_multiplier must be 0 or below 2 count_noise, or the count reveals "
            f"more than it allows; got {noise_multiplier} and {count_noise}"
        )
    if key is None and not (known and float(count_noise) == 0):
        raise ValueError("noise needs a key: give the argument key")


def _check_quantile(value: Any) -> None:
    check_threshold("target_quantile", value)
    if not isinstance(value, jax.core.Tracer) and not np.all(np.asarray(value) <= 1):
        raise ValueError(f"target_quantile must be from 0 to 1, got {value}")
