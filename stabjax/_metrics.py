"""What the optimizer saw: metrics kept in its state, read as one flat dict."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote, unquote

import jax
import jax.numpy as jnp
import optax

from stabjax._norms import global_norm, leaf_norms, norm_dtype, widened

_Place: TypeAlias = tuple[str, ...]  # keys from the root of a state


class Report(NamedTuple):
    """What a transformation did to the updates."""

    grad_norm: jax.Array
    update_norm: jax.Array
    clipped: jax.Array


class ReportingTransformation(optax.GradientTransformation):  # type: ignore[misc]  # Optax's is untyped
    """A transformation that reports what it does, which saves measuring it.

    On CPUs measuring is slow: a sum over an expression that is not stored takes many
    times as long as one over an array. A copy with parts replaced has no report.
    """

    report: Callable[[optax.Updates], Report] | None = None


class MetricsState(NamedTuple):
    """State of `with_metrics`."""

    inner_state: optax.OptState
    metrics_step: jax.Array  # int32: number of updates
    clip_count: jax.Array  # int32: updates in which an element became smaller
    metrics: dict[str, jax.Array]  # metric_key(name, what) -> scalar


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
            metrics |= _by_path(name, "grad_norm", zeros)
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
        report = _report(transformation, before, updates)
        step, count, fraction = count_clip(
            state.metrics_step, state.clip_count, report.clipped
        )
        dtype = state.metrics[metric_key(name, "grad_norm")].dtype
        norms = report.grad_norm.astype(dtype), report.update_norm.astype(dtype)
        seen = _seen(name, *norms, report.clipped, fraction)
        if per_leaf:
            leaves = jax.tree.map(lambda n: n.astype(dtype), leaf_norms(before))
            seen |= _by_path(name, "grad_norm", leaves)
        return updates, MetricsState(inner_state, step, count, seen)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def metrics(opt_state: optax.OptState) -> dict[str, jax.Array]:
    """Collects the metrics that an optimizer's state holds about the last update.

    These are the elements of every field `metrics`, which `stabjax.with_metrics` and
    all transformations of this library with a state have, and the current values of
    `optax.inject_hyperparams` under their own names. States may be nested: in
    `optax.chain`, `masked`, `partition`, `MultiSteps`, or in the forms that Flax NNX
    gives them.

    A name is that of the transformation and of the metric: `zclip/grad_norm`. Where
    several transformations have one name, their places stand in front, as far as they
    differ: the position in `optax.chain`, the name in `optax.named_chain`, the label in
    `optax.partition`, or the field of a state that wraps another. Two `zclip` in a
    chain are `0/zclip/grad_norm` and `2/zclip/grad_norm`; around another guard of its
    kind, a guard keeps its name, and the inner one has `inner_state` in front.

    A state of your own takes part with a field `metrics` that is a dict with keys
    `name:metric`. No key has a slash, so that flat checkpoints restore.

    Args:
      opt_state: the state of any optimizer; arrays or tracers.

    Returns:
      A flat dict, sorted by name; the values are scalars (arrays of the batch's shape
      if the state was batched by `vmap`).

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
    """
    found = _found(opt_state)
    places: dict[str, set[_Place]] = defaultdict(set)
    for metric in found:
        places[metric.owner].add(metric.place)
    shown = [_difference(metric.place, places[metric.owner]) for metric in found]
    names = [
        "/".join((*place, *map(unquote, metric.parts)))
        for place, metric in zip(shown, found, strict=True)
    ]
    # Two leaves, "a/b" and "b" in "a", or a name that reads like another's place.
    for longer in (shown, [metric.place for metric in found]):
        count = Counter(names)
        names = [
            name if count[name] == 1 else "/".join((*place, *metric.parts))
            for name, place, metric in zip(names, longer, found, strict=True)
        ]
    collected = {name: metric.value for name, metric in zip(names, found, strict=True)}
    return dict(sorted(collected.items()))


def count_clip(
    steps: jax.Array, clips: jax.Array, clipped: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One more step: how many there were, how many of them clipped, and the share."""
    steps = optax.safe_increment(steps)
    clips = jnp.where(clipped, optax.safe_increment(clips), clips)
    return steps, clips, clips.astype(jnp.float32) / steps.astype(jnp.float32)


def _report(
    transformation: optax.GradientTransformation, before: Any, after: Any
) -> Report:
    """What is known, where no rounding of the updates changes it, or else measured."""
    leaves = jax.tree.leaves(before)
    wide = all(jnp.result_type(leaf) == norm_dtype(leaves) for leaf in leaves)
    report = getattr(transformation, "report", None)
    if wide and report:
        known: Report = report(before)
        return known
    return Report(global_norm(before), global_norm(after), _any_smaller(after, before))


def _seen(
    name: str,
    grad_norm: jax.Array,
    update_norm: jax.Array,
    clipped: jax.Array,
    clip_fraction: jax.Array,
) -> dict[str, jax.Array]:
    return {
        metric_key(name, "grad_norm"): grad_norm,
        metric_key(name, "update_norm"): update_norm,
        metric_key(name, "clipped"): clipped,
        metric_key(name, "clip_fraction"): clip_fraction,
    }


def _by_path(name: str, what: str, tree: Any) -> dict[str, jax.Array]:
    """One metric of each leaf of a tree."""
    keys = [metric_key(name, what, *path) for path in leaf_paths(tree)]
    return dict(zip(keys, jax.tree.leaves(tree), strict=True))


def metric_key(*parts: str) -> str:
    """The key of a metric in a state: its parts, quoted, between colons.

    A slash in a key would be taken for a level by whatever flattens checkpoints; a
    colon marks the key of a metric, for a model may have a module called `metrics`.
    """
    return ":".join(quote(part, safe="") for part in parts)


def leaf_paths(tree: Any) -> list[tuple[str, ...]]:
    """The path of each leaf, in the order of `jax.tree.leaves`.

    A variable of Flax NNX and the array that stands for it in gradients have the same.
    """
    paths = []
    for path, node in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_variable):
        within = jax.tree_util.tree_leaves_with_path(node)
        own = tuple(str(_key(entry)) for entry in path)
        paths += [(*own, *(str(_key(e)) for e in inner[1:])) for inner, _ in within]
    return paths


def leaf_name(path: Sequence[str]) -> str:
    """The path of a leaf as text: `dense/kernel`."""
    return "/".join(path)


def _is_variable(node: object) -> bool:
    """Whether a node is a variable of Flax NNX, which need not be installed."""
    return any(
        kind.__name__ == "Variable" and kind.__module__.startswith("flax.nnx")
        for kind in type(node).__mro__
    )


def _any_smaller(updates: optax.Updates, before: optax.Updates) -> jax.Array:
    """Whether an entry shrank. Not told from the norms, whose rounding may differ."""

    def smaller(u: jax.Array, g: jax.Array) -> jax.Array:
        dtype = norm_dtype([u, g])
        return jnp.any(jnp.abs(widened(u, dtype)) < jnp.abs(widened(g, dtype)))

    shrank = jax.tree.map(smaller, updates, before)
    return jax.tree.reduce(jnp.logical_or, shrank, jnp.zeros((), bool))


class _Metric(NamedTuple):
    """A metric as it was found in a state."""

    place: _Place  # of the state that holds it
    parts: tuple[str, ...]  # quoted
    value: jax.Array

    @property
    def owner(self) -> str:
        """The name of the transformation, or of an injected hyperparameter."""
        return unquote(self.parts[0])


def _found(opt_state: optax.OptState) -> list[_Metric]:
    """All metrics of a state, with the places of the states that hold them."""
    leaves = list(zip(leaf_paths(opt_state), jax.tree.leaves(opt_state), strict=True))
    nodes = {keys[:depth] for keys, _ in leaves for depth in range(len(keys) + 1)}
    found = []
    for keys, leaf in leaves:
        for depth, (field, key) in enumerate(itertools.pairwise(keys)):
            place, parts = keys[:depth], re.split("[:/]", key)
            if field == "metrics" and len(parts) > 1:
                parts += [quote(part, safe="") for part in keys[depth + 2 :]]
                found.append(_Metric(place, tuple(parts), leaf))
                break
            # A module of a model may have that name too, but has no count beside it.
            if field == "hyperparams" and (*place, "count") in nodes:
                found.append(_Metric(place, (quote(key, safe=""),), leaf))
                break
    return found


def _difference(place: _Place, places: set[_Place]) -> list[str]:
    """The keys of a place at which another one takes a different way, or ends."""
    return [
        key
        for depth, key in enumerate(place)
        if any(
            other[:depth] == place[:depth] and other[: depth + 1] != place[: depth + 1]
            for other in places
        )
    ]


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
