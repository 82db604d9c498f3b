"""Per-example gradient clipping."""

import math

import jax
import jax.numpy as jnp
import optax

from stabjax._arguments import check
from stabjax._axes import Axes, global_size, leaf_axes
from stabjax._norms import norms_of_examples, widened
from stabjax._scaling import apply_factor, as_scalar, cast_back, clip_factor
from stabjax._types import Number


def per_example_global_norm_clip(
    grads: optax.Updates, l2_norm_clip: Number, *, axis_name: object = None
) -> tuple[optax.Updates, jax.Array]:
    """Clips each example's gradient by its global norm and sums over examples.

        sum_b g_b min(1, l2_norm_clip / |g_b|_2)

    The global norm of example b is taken over all leaves. Gradients are summed in
    float32 or wider.

    Args:
      grads: a tree of per-example gradients, with examples along axis 0 of every leaf.
      l2_norm_clip: maximum norm, a number >= 0 or a scalar array. **Traceable.**
      axis_name: inside `shard_map`, the mesh axes over which parameters are sharded
        (see `stabjax.global_norm`), or `()` if parameters are replicated and each
        device has its own examples. Array types do not distinguish the two cases.
        **Static.**

    Returns:
      A tuple of the summed gradients and the number of clipped examples (int32). If any
      example has a non-finite element, the sum is NaN.

    Raises:
      ValueError: If the leaves have different sizes along axis 0, or if `l2_norm_clip`
        is concrete and negative or NaN.
      TypeError: If `l2_norm_clip` is not a number.

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
    check("l2_norm_clip", l2_norm_clip, ">= 0")
    check_examples("per_example_global_norm_clip", grads)
    sums, clipped = clipped_sums(grads, l2_norm_clip, axis_name)
    return cast_like(grads, sums), clipped


def per_example_layer_norm_clip(
    grads: optax.Updates,
    global_l2_norm_clip: Number,
    uniform: bool = True,
    *,
    axis_name: object = None,
) -> tuple[optax.Updates, optax.Updates]:
    """Clips each example's gradient per layer and sums over examples.

    Applies `stabjax.per_example_global_norm_clip` to each leaf separately. Let C be the
    global bound, K the number of leaves, D the number of parameters and D_i the size of
    leaf i. The bound of leaf i is C / sqrt(K) if `uniform`, and C sqrt(D_i / D)
    otherwise.

    Args:
      grads: a tree of per-example gradients, with examples along axis 0 of every leaf.
      global_l2_norm_clip: C, a number >= 0 or a scalar array. **Traceable.**
      uniform: whether to use the same bound for all leaves. **Static.**
      axis_name: see `stabjax.per_example_global_norm_clip`. **Static.**

    Returns:
      A tuple of the summed gradients and the number of clipped examples for each leaf
      (int32). Both have the same structure as `grads`.

    Raises:
      ValueError: If the leaves have different sizes along axis 0, or if
        `global_l2_norm_clip` is concrete and negative or NaN.
      TypeError: If `global_l2_norm_clip` is not a number.

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
    check_examples("per_example_layer_norm_clip", grads)
    check("global_l2_norm_clip", global_l2_norm_clip, ">= 0")
    leaves, structure = jax.tree.flatten(grads)
    axes = axes_of_parameters(grads, axis_name)
    sizes = [
        math.prod(leaf.shape[1:]) * global_size(jnp.ones(()), names)
        for leaf, names in zip(leaves, axes, strict=True)
    ]
    total = max(sum(sizes), 1)
    parts = [1 / len(leaves) if uniform else size / total for size in sizes]
    pairs = [
        clipped_sums(leaf, global_l2_norm_clip * part**0.5, names)
        for leaf, part, names in zip(leaves, parts, axes, strict=True)
    ]
    sums, clipped = (
        jax.tree.unflatten(structure, found) for found in zip(*pairs, strict=True)
    )
    return cast_like(grads, sums), clipped


def clipped_sums(
    grads: optax.Updates, l2_norm_clip: Number, axis_name: object
) -> tuple[optax.Updates, jax.Array]:
    """Sums clipped gradients in float32 or wider, and counts clipped examples."""
    axes = axes_of_parameters(grads, axis_name)
    norms = norms_of_examples(jax.tree.leaves(grads), axes)
    limit = as_scalar("l2_norm_clip", l2_norm_clip, norms.value.dtype)
    factor = clip_factor(norms, limit)

    def clipped_sum(g: Number) -> jax.Array:
        wide = widened(g, factor.first.dtype)
        return jnp.sum(jax.vmap(apply_factor)(wide, factor), axis=0)

    return jax.tree.map(clipped_sum, grads), jnp.sum(factor.exceeded, dtype=jnp.int32)


def cast_like(grads: optax.Updates, sums: optax.Updates) -> optax.Updates:
    """Casts the sums to the dtypes of the gradients."""
    return jax.tree.map(lambda g, x: cast_back(x, jnp.asarray(g).dtype), grads, sums)


def check_examples(function: str, grads: optax.Updates) -> None:
    """Raises a ValueError unless all leaves have the same size along axis 0."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(grads)]
    if not shapes or len({shape[:1] for shape in shapes}) > 1 or () in shapes:
        raise ValueError(
            f"{function}: all leaves of grads must have examples along axis 0, "
            f"got shapes {shapes}."
        )


def axes_of_parameters(grads: optax.Updates, axis_name: object) -> tuple[Axes, ...]:
    """Returns the mapped axes over which each leaf's parameters are sharded."""
    axes = leaf_axes("grads", grads, axis_name, some=True)
    if axis_name is None and any(axes):
        raise ValueError(
            "axis_name must contain the mesh axes over which parameters are sharded, "
            "or be () if each device has its own examples, got None."
        )
    return axes


def number_of_examples(grads: optax.Updates) -> int:
    """Returns the number of examples, or 1 if there are none, as a divisor."""
    return max(jnp.shape(jax.tree.leaves(grads)[0])[0], 1)
