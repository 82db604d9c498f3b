"""What the optimizer saw: metrics kept in its state, read as one flat dict."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stabjax._norms import global_norm, leaf_norms, norm_dtype, widened


class Told(NamedTuple):
    """What a transformation did to the updates."""

    grad_norm: jax.Array
    update_norm: jax.Array
    clipped: jax.Array


class Telling(optax.GradientTransformation):  # type: ignore[misc]  # Optax's is untyped
    """A transformation that knows what it does, so that nobody has to measure it.

    On CPUs that is slow: a sum over an expression that is not stored takes many times
    as long as one over an array. A copy with parts replaced tells nothing.
    """

    tell: Callable[[optax.Updates], Told] | None = None


class MetricsState(NamedTuple):
    """State of :func:`with_metrics`."""

    inner_state: optax.OptState
    metrics_step: jax.Array  # int32: updates seen
    clip_count: jax.Array  # int32: updates in which an entry became smaller
    metrics: dict[str, jax.Array]  # "name/what" -> scalar


def with_metrics(
    transformation: optax.GradientTransformation, name: str, *, per_leaf: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps what a transformation did to the gradient, for the logs.

    With :math:`g` what comes in and :math:`u` what goes out, the state holds, for
    :func:`stabjax.metrics` to read: ``name/grad_norm`` :math:`\|g\|_2`,
    ``name/update_norm`` :math:`\|u\|_2`, ``name/clipped`` (whether some
    :math:`|u_i| < |g_i|` in the last update) and ``name/clip_fraction`` (the share of
    the updates so far in which that was so). A non-finite gradient shows as a
    non-finite norm.

    Args:
      transformation: any Optax transformation; its updates are unchanged, and extra
        arguments such as ``value`` are passed on to it.
      name: what stands in front of the metrics' names; static.
      per_leaf: also keep the norm of each leaf of the gradient, as
        ``name/grad_norm/`` and the leaf's path, ``dense/kernel`` for one; static.

    Returns:
      A transformation with a :class:`MetricsState`. Metrics are 0 before the first
      update; norms are float32, or float64 if a parameter is. Inside of ``shard_map``
      they are those of the shard, whatever the transformation does across them.

    Raises:
      TypeError: if ``transformation`` is no Optax transformation or ``name`` no string.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> tx = stabjax.with_metrics(stabjax.clip_by_global_norm(1.0), name="clip")
      >>> params = jnp.zeros(2)
      >>> updates, state = tx.update(jnp.array([3.0, 4.0]), tx.init(params))
      >>> {k: round(float(v), 3) for k, v in stabjax.metrics(state).items()}
      {'clip/clip_fraction': 1.0, 'clip/clipped': 1.0, 'clip/grad_norm': 5.0,
       'clip/update_norm': 1.0}

    Source: asked for in Optax since 2022; the choice of metrics is this library's.
    """
    check_transformation("transformation", transformation)
    if not isinstance(name, str) or not name:
        raise TypeError(f"name must be a non-empty string, got {name!r}")
    inner = optax.with_extra_args_support(transformation)

    def init_fn(params: optax.Params) -> MetricsState:
        norm = norm_dtype(jax.tree.leaves(params))
        # Each its own array: a state may be donated, and no buffer twice.
        seen = [jnp.zeros((), dtype) for dtype in (norm, norm, bool, jnp.float32)]
        steps, clips = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        metrics = _seen(name, *seen)
        if per_leaf:
            zeros = jax.tree.map(lambda _: jnp.zeros((), norm), params)
            metrics |= _by_path(f"{name}/grad_norm", zeros)
        return MetricsState(inner.init(params), steps, clips, metrics)

    def update_fn(
        updates: optax.Updates,
        state: MetricsState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, MetricsState]:
        before = updates
        updates, inner_state = inner.update(
            updates, state.inner_state, params, **extra_args
        )
        told = _told(transformation, before, updates)
        step, count, fraction = count_clip(
            state.metrics_step, state.clip_count, told.clipped
        )
        dtype = state.metrics[f"{name}/grad_norm"].dtype
        norms = told.grad_norm.astype(dtype), told.update_norm.astype(dtype)
        seen = _seen(name, *norms, told.clipped, fraction)
        if per_leaf:
            leaves = jax.tree.map(lambda n: n.astype(dtype), leaf_norms(before))
            seen |= _by_path(f"{name}/grad_norm", leaves)
        return updates, MetricsState(inner_state, step, count, seen)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def metrics(opt_state: optax.OptState) -> dict[str, jax.Array]:
    """Collects what an optimizer's state tells about the last update.

    Every entry of a field ``metrics`` (a dict ``{"name/what": value}``, kept by
    :func:`stabjax.with_metrics` and by whatever of this library has a state), and the
    current values of ``optax.inject_hyperparams``, under their own names. States may
    be nested: in ``optax.chain``, ``masked``, ``partition``, ``MultiSteps``, or in the
    forms that Flax NNX gives them. Two entries of one name from two groups of
    ``optax.partition`` have the group's label put in front.

    Args:
      opt_state: the state of any optimizer; arrays or tracers.

    Returns:
      A flat dict, sorted by name; the values are scalars (arrays of the batch's shape
      if the state was batched by ``vmap``).

    Raises:
      ValueError: if two transformations have the same name.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> optimizer = optax.chain(
      ...     stabjax.with_metrics(stabjax.clip(1.0), name="clip"),
      ...     optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
      ... )
      >>> state = optimizer.init(jnp.zeros(3))
      >>> sorted(stabjax.metrics(state))
      ['clip/clip_fraction', 'clip/clipped', 'clip/grad_norm', 'clip/update_norm',
       'learning_rate']

    Source: this library's convention.
    """
    leaves = [
        (tuple(map(_key, path)), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state)
    ]
    nodes = {keys[:depth] for keys, _ in leaves for depth in range(len(keys) + 1)}
    found = [
        (name, keys, leaf)
        for keys, leaf in leaves
        if (name := _metric_name(keys, nodes))
    ]
    repeated = Counter(name for name, _, _ in found)
    collected: dict[str, tuple[tuple[Any, ...], jax.Array]] = {}
    for name, keys, leaf in found:
        full = "/".join([*_labels(keys), name]) if repeated[name] > 1 else name
        if full in collected:
            places = " and ".join(
                ".".join(map(str, place)) for place in (collected[full][0], keys)
            )
            raise ValueError(
                f"two metrics are called {full!r}, at {places} of the state: "
                "give their transformations different names"
            )
        collected[full] = keys, leaf
    return {name: collected[name][1] for name in sorted(collected)}


def count_clip(
    steps: jax.Array, clips: jax.Array, clipped: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One more step: how many there were, how many of them clipped, and the share."""
    steps = optax.safe_increment(steps)
    clips = jnp.where(clipped, optax.safe_increment(clips), clips)
    return steps, clips, clips.astype(jnp.float32) / steps.astype(jnp.float32)


def _told(
    transformation: optax.GradientTransformation, before: Any, after: Any
) -> Told:
    """What is known, where no rounding of the updates changes it, or else measured."""
    leaves = jax.tree.leaves(before)
    wide = all(jnp.result_type(leaf) == norm_dtype(leaves) for leaf in leaves)
    if wide and isinstance(transformation, Telling) and transformation.tell:
        return transformation.tell(before)
    return Told(global_norm(before), global_norm(after), _any_smaller(after, before))


def _seen(
    name: str,
    grad_norm: jax.Array,
    update_norm: jax.Array,
    clipped: jax.Array,
    clip_fraction: jax.Array,
) -> dict[str, jax.Array]:
    return {
        f"{name}/grad_norm": grad_norm,
        f"{name}/update_norm": update_norm,
        f"{name}/clipped": clipped,
        f"{name}/clip_fraction": clip_fraction,
    }


def _by_path(prefix: str, tree: Any) -> dict[str, jax.Array]:
    """The leaves of a tree under their paths."""
    return {
        f"{prefix}/{path_name(path)}": leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def path_name(path: Any) -> str:
    """The path of a leaf as text: ``dense/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _any_smaller(updates: optax.Updates, before: optax.Updates) -> jax.Array:
    """Whether an entry shrank. Not told from the norms, whose rounding may differ."""

    def smaller(u: jax.Array, g: jax.Array) -> jax.Array:
        dtype = norm_dtype([u, g])
        return jnp.any(jnp.abs(widened(u, dtype)) < jnp.abs(widened(g, dtype)))

    shrank = jax.tree.map(smaller, updates, before)
    return jax.tree.reduce(jnp.logical_or, shrank, jnp.zeros((), bool))


def _metric_name(keys: tuple[Any, ...], nodes: set[tuple[Any, ...]]) -> str | None:
    """The name of a metric that stands at this path of a state, if one does."""
    for depth, (field, name) in enumerate(zip(keys, keys[1:], strict=False)):
        if field == "metrics" and "/" in str(name):
            return str(name)
        # A module of a model may have that name too, but has no count beside it.
        if field == "hyperparams" and (*keys[:depth], "count") in nodes:
            return str(name)
    return None


def _labels(keys: Sequence[Any]) -> list[str]:
    """Labels of the groups of `optax.partition` on the way to a leaf."""
    pairs = zip(keys, keys[1:], strict=False)
    return [str(label) for field, label in pairs if field == "inner_states"]


def _key(entry: Any) -> Any:
    """What stands in an entry of a path: field, key or index."""
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return getattr(entry, attribute)
    return entry


def check_transformation(argument: str, value: object) -> None:
    """Refuses what is no transformation, such as a function that makes one."""
    if not isinstance(value, optax.GradientTransformation):
        raise TypeError(
            f"{argument} must be an optax.GradientTransformation, "
            f"got {type(value).__name__}"
        )
