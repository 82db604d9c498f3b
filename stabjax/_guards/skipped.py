"""Model state updates that depend on whether a step was skipped."""

import itertools
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax

from stabjax._metrics import metrics
from stabjax._paths import leaf_paths

Tree = TypeVar("Tree")


def unless_skipped(opt_state: optax.OptState, new: Tree, old: Tree) -> Tree:
    """Returns the new tree, or the old tree if a guard skipped the last update.

    Guards only protect parameters and optimizer state. Use this function for other
    state that a step changes, such as batch statistics, averaged weights or the
    position in a dataset. For example, a forward pass that causes a NaN gradient also
    puts NaN into the running mean of batch normalization.

    Args:
      opt_state: the optimizer state after the update, with guards at any depth.
      new: any tree of arrays, such as the batch statistics after the step.
      old: a tree of the same structure from before the step. In Flax NNX, copy it with
        `nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))`, because `nnx.state` returns
        references that change with the model.

    Returns:
      `old` if a guard skipped the update, and `new` otherwise.

    Raises:
      ValueError: If the state contains no guard or is a batch of states, if a guard is
        inside `optax.MultiSteps` (see `stabjax.check_guards`), or if `new` and `old`
        have different shapes or dtypes.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> optimizer = stabjax.skip_if_nonfinite(optax.sgd(0.1))
      >>> params, mean = jnp.ones(2), jnp.array(3.0)
      >>> state = optimizer.init(params)
      >>> _, state = optimizer.update(jnp.full(2, jnp.nan), state, params)
      >>> float(stabjax.unless_skipped(state, new=jnp.array(jnp.nan), old=mean))
      3.0
    """
    if (flag := skipped(opt_state)) is None:
        raise ValueError(
            "opt_state must contain the state of a guard such as "
            "stabjax.skip_if_nonfinite, got a state without guards."
        )
    return selected(flag, old, new)


def skipped(opt_state: optax.OptState) -> jax.Array | None:
    """Returns whether a guard skipped the last update, or None without a guard."""
    check_accumulation(opt_state)
    found = metrics(opt_state)
    flags = [value for name, value in found.items() if name.endswith("/skipped")]
    if not flags:
        return None
    flag = jnp.stack([jnp.asarray(flag) for flag in flags]).any(axis=0)
    if flag.ndim:
        raise ValueError(
            f"opt_state must be the state of one run, got a batch of shape "
            f"{flag.shape}. Use jax.vmap(stabjax.unless_skipped)."
        )
    return flag


def selected(condition: jax.Array, old: Tree, new: Tree) -> Tree:
    """Returns the old tree where the condition holds, else the new one."""

    def select(x: jax.Array, y: jax.Array) -> jax.Array:
        if jnp.shape(x) != jnp.shape(y) or jnp.result_type(x) != jnp.result_type(y):
            raise ValueError(
                "new and old must have the same shapes and dtypes, got "
                f"{jnp.result_type(x)}{jnp.shape(x)} and "
                f"{jnp.result_type(y)}{jnp.shape(y)}."
            )
        return jnp.where(condition, y, x)

    chosen: Tree = jax.tree.map(select, new, old)
    return chosen


def check_accumulation(opt_state: optax.OptState) -> None:
    """Raises a ValueError if a guard is inside `optax.MultiSteps`.

    A NaN in one minibatch stays in the accumulated gradient because Optax resets it by
    multiplying by 0. Every later update would then be skipped. With
    `optax.skip_not_finite`, NaN never enters the accumulated gradient, and the state
    has extra fields.
    """
    paths = leaf_paths(opt_state)
    nodes = {path[:depth] for path in paths for depth in range(len(path))}
    for path in paths:
        for depth, (field, key) in enumerate(itertools.pairwise(path)):
            guard, _, metric = key.rpartition(":")
            if field != "metrics" or metric != "skipped":
                continue
            outer = {path[:i] for i in range(depth) if path[i] == "inner_opt_state"}
            if any(
                (*node, "acc_grads") in {*nodes, *paths}
                and (*node, "skip_state") not in nodes
                for node in outer
            ):
                raise ValueError(
                    f"{guard} must be outside optax.MultiSteps, which keeps a NaN in "
                    f"its accumulated gradient. Use {guard}(optax.MultiSteps("
                    "...).gradient_transformation()), or MultiSteps(..., "
                    "should_skip_update_fn=optax.skip_not_finite)."
                )
