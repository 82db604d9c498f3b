"""Clipping the gradient of each example before they are summed."""

import math

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from stabjax._clipping.threshold import (
    Shrinkage,
    cast_back,
    check_threshold,
    scalar,
    shrinkage,
    shrunk,
)
from stabjax._norms import scaled_norm, widened


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
    _check_examples("per_example_global_norm_clip", grads)
    check_threshold("l2_norm_clip", l2_norm_clip)
    norms = jax.vmap(scaled_norm)(grads)
    limit = scalar("l2_norm_clip", l2_norm_clip, norms.value.dtype)
    by = jax.vmap(shrinkage, in_axes=(0, None))(norms, limit)
    clipped = jnp.sum(by.exceeded, dtype=jnp.int32)
    return jax.tree.map(lambda g: _clipped_sum(g, by), grads), clipped


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


def _clipped_sum(g: ArrayLike, by: Shrinkage) -> jax.Array:
    g = jnp.asarray(g)
    total = jnp.sum(jax.vmap(shrunk)(widened(g, by.factor.dtype), by), axis=0)
    return cast_back(total, g.dtype)


def _check_examples(function: str, grads: optax.Updates) -> None:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(grads)]
    if not shapes or len({shape[:1] for shape in shapes}) > 1 or () in shapes:
        raise ValueError(
            f"{function}: every leaf of grads must have the examples along axis 0, "
            f"got leaves of shapes {shapes}"
        )
