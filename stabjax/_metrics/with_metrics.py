"""Metrics of a transformation's effect on the gradient."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from stabjax._arguments import check_choice
from stabjax._metrics.reading import metric_key
from stabjax._norms import global_norm, is_float0, leaf_norms, norm_dtype, widened
from stabjax._paths import check_arrays, leaf_paths

LeafMetric: TypeAlias = Literal["grad_norm", "norm_share", "update_norm", "param_norm"]


class Report(NamedTuple):
    """A transformation's effect on the updates."""

    grad_norm: jax.Array
    update_norm: jax.Array
    clipped: jax.Array


class ReportingTransformation(
    optax.GradientTransformation  # type: ignore[misc]  # Optax's is untyped
):
    """A transformation that computes its own report.

    This is faster than measuring updates: on CPUs, a reduction over an expression that
    is not materialized takes many times as long as one over an array. `_replace`
    returns a copy without the report.
    """

    report: Callable[..., Report] | None = None  # same arguments as `update`


class MetricsState(NamedTuple):
    """State of `with_metrics`.

    Attributes:
      inner_state: state of the wrapped transformation.
      metrics_step: number of updates (int32).
      clip_count: number of updates that made any element smaller (int32).
      metrics: see `stabjax.metrics`.
    """

    inner_state: optax.OptState
    metrics_step: jax.Array
    clip_count: jax.Array
    metrics: dict[str, jax.Array]


def with_metrics(
    transformation: optax.GradientTransformation,
    name: str,
    *,
    per_leaf: bool | Sequence[LeafMetric] = False,
    axis_name: object = None,
) -> optax.GradientTransformationExtraArgs:
    """Records metrics of a transformation's effect on the gradient.

    Let `g` be the gradient and `u` the update. The state contains the metrics
    `name/grad_norm = ||g||_2`, `name/update_norm = ||u||_2`, `name/clipped` (whether
    `|u_i| < |g_i|` for any element in the last update) and `name/clip_fraction` (the
    fraction of clipped updates so far). Use `stabjax.metrics` to read them. If the
    gradient is non-finite, so is its norm.

    For `stabjax.clip_by_global_norm`, `clipped` is derived from the norm and the
    threshold. For other transformations, it compares gradient and update after rounding
    both to the same dtype.

    Args:
      transformation: any Optax transformation. Its updates are unchanged. Extra
        arguments such as `value` are passed to it.
      name: prefix of metric names. **Static.**
      per_leaf: whether to also record metrics of each parameter, named like
        `name/grad_norm/dense/kernel`. If True, records `grad_norm` and `norm_share`,
        which is the parameter's fraction of the squared global norm. Alternatively, a
        sequence of `grad_norm`, `norm_share`, `update_norm` and `param_norm`.
        **Static.**
      axis_name: mapped axes over which leaves are sharded, if types do not track them
        (see `stabjax.global_norm`). Pass it to the wrapped clip too: clips to a given
        threshold report norms with their own `axis_name`. **Static.**

    Returns:
      A transformation with a `MetricsState`. Metrics are initially 0. Norms are float64
      if any parameter is float64, and float32 otherwise.

    Raises:
      TypeError: If `transformation` is not an Optax transformation, `name` is not a
        string, or a parameter is not an array.
      ValueError: If `per_leaf` contains an unknown metric, or `update` is called
        without `params` for `param_norm`.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> tx = stabjax.with_metrics(stabjax.clip_by_global_norm(1.0), name="clip")
      >>> params = jnp.zeros(2)
      >>> updates, state = tx.update(jnp.array([3.0, 4.0]), tx.init(params))
      >>> {k: round(float(v), 3) for k, v in stabjax.metrics(state).items()}
      {'clip/clip_fraction': 1.0, 'clip/clipped': 1.0, 'clip/grad_norm': 5.0,
       'clip/update_norm': 1.0}
    """
    check_transformation("transformation", transformation)
    if not isinstance(name, str) or not name:
        raise TypeError(f"name must be a non-empty string, got {name!r}.")
    leaf_metrics = _leaf_metrics(per_leaf)
    inner = optax.with_extra_args_support(transformation)

    def init_fn(params: optax.Params) -> MetricsState:
        check_arrays("params", params)
        dtype = norm_dtype(params)
        dtypes: dict[tuple[str, ...], Any] = {
            (metric, *path): dtype
            for metric in leaf_metrics
            for path in leaf_paths(params)
        }
        dtypes |= {("grad_norm",): dtype, ("update_norm",): dtype}
        dtypes |= {("clipped",): bool, ("clip_fraction",): jnp.float32}
        # A donated state must not use the same buffer twice.
        metrics = {
            metric_key(name, *path): jnp.zeros((), kind)
            for path, kind in dtypes.items()
        }
        step, count = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return MetricsState(inner.init(params), step, count, metrics)

    def update_fn(
        updates: optax.Updates,
        state: MetricsState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, MetricsState]:
        grads = updates
        updates, inner_state = inner.update(
            grads, state.inner_state, params, **extra_args
        )
        report = getattr(transformation, "report", None)
        known = report(grads, state.inner_state, params) if report else None
        report = _report(known, grads, updates, axis_name)
        step, count, fraction = count_clip(
            state.metrics_step, state.clip_count, report.clipped
        )
        values = _of_leaves(leaf_metrics, grads, updates, params, axis_name)
        values |= {(metric,): value for metric, value in report._asdict().items()}
        values["clip_fraction",] = fraction
        metrics = {metric_key(name, *path): value for path, value in values.items()}
        metrics = {
            key: value.astype(state.metrics[key].dtype)
            for key, value in metrics.items()
        }
        return updates, MetricsState(inner_state, step, count, metrics)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def count_clip(
    steps: jax.Array, clips: jax.Array, clipped: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Increments the step and clip counts and computes the clip fraction."""
    steps = optax.safe_increment(steps)
    clips = jnp.where(clipped, optax.safe_increment(clips), clips)
    return steps, clips, clips.astype(jnp.float32) / steps.astype(jnp.float32)


def check_transformation(argument: str, value: object) -> None:
    """Raises a TypeError if the value is not a transformation."""
    if not isinstance(value, optax.GradientTransformation):
        raise TypeError(
            f"{argument} must be an optax.GradientTransformation, got {value!r}."
        )


def _leaf_metrics(per_leaf: bool | Sequence[LeafMetric]) -> tuple[LeafMetric, ...]:
    if isinstance(per_leaf, bool):
        return ("grad_norm", "norm_share") if per_leaf else ()
    if isinstance(per_leaf, str) or not isinstance(per_leaf, Sequence):
        raise TypeError(
            f"per_leaf must be a boolean or a sequence of metrics, got {per_leaf!r}."
        )
    for metric in per_leaf:
        check_choice("per_leaf", metric, get_args(LeafMetric))
    return tuple(per_leaf)


def _of_leaves(
    leaf_metrics: Sequence[LeafMetric],
    grads: optax.Updates,
    updates: optax.Updates,
    params: optax.Params | None,
    axis_name: object,
) -> dict[tuple[str, ...], jax.Array]:
    """Returns the metrics of each leaf by metric name and leaf path."""
    if params is None and "param_norm" in leaf_metrics:
        raise ValueError("params must be passed to update for 'param_norm', got None.")
    trees = {"update_norm": updates, "param_norm": params}
    found: dict[tuple[str, ...], jax.Array] = {}
    for metric in leaf_metrics:
        tree = trees.get(metric, grads)
        norms = jax.tree.leaves(leaf_norms(tree, axis_name=axis_name))
        values = _shares(norms) if metric == "norm_share" else norms
        paths = leaf_paths(grads)
        found |= {(metric, *p): v for p, v in zip(paths, values, strict=True)}
    return found


def _shares(norms: list[jax.Array]) -> list[jax.Array]:
    """Computes each norm's share of the sum of squared norms without overflow."""
    if not norms:
        return []
    dtype = norm_dtype(norms)
    stacked = jnp.stack([norm.astype(dtype) for norm in norms])
    largest = jnp.minimum(jnp.max(stacked), np.finfo(dtype).max)
    squares = (stacked / jnp.where(largest > 0, largest, 1)) ** 2
    return list(squares / jnp.where(largest > 0, jnp.sum(squares), 1))


def _report(
    known: Report | None,
    grads: optax.Updates,
    updates: optax.Updates,
    axis_name: object,
) -> Report:
    """Returns the transformation's own report if available, or measures one."""
    if known is None:
        return Report(
            global_norm(grads, axis_name=axis_name),
            global_norm(updates, axis_name=axis_name),
            _any_smaller(updates, grads, axis_name),
        )
    leaves = [leaf for leaf in jax.tree.leaves(grads) if not is_float0(leaf)]
    if all(jnp.result_type(leaf) == norm_dtype(leaves) for leaf in leaves):
        return known
    # Rounding to a narrower dtype changes the norm of the updates.
    return known._replace(update_norm=global_norm(updates, axis_name=axis_name))


def _any_smaller(
    updates: optax.Updates, grads: optax.Updates, axis_name: object
) -> jax.Array:
    """Returns whether any element became smaller.

    Compares elements because norms differ by rounding. An inf-norm combines the flags
    of all shards.
    """

    def smaller(u: jax.Array, g: jax.Array) -> jax.Array:
        if is_float0(g):
            return jnp.zeros((), jnp.float32)
        dtype = norm_dtype([u, g])
        flags = jnp.abs(_rounded(u, dtype)) < jnp.abs(_rounded(g, dtype))
        return jnp.any(flags).astype(jnp.float32)

    flags = jax.tree.map(smaller, updates, grads)
    return global_norm(flags, jnp.inf, axis_name=axis_name) > 0


def _rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """Converts an array to a wider dtype after rounding it to its own.

    XLA may skip the rounding of intermediate bfloat16 and float16 arrays
    (`xla_allow_excess_precision`, JAX 0.10), in which case an array and its copy
    differ. `lax.reduce_precision` is not skipped.
    """
    own = jnp.result_type(x)
    wide = widened(x, dtype)
    if own in (jnp.bfloat16, jnp.float16):
        exponent, mantissa = (8, 7) if own == jnp.bfloat16 else (5, 10)
        wide = lax.reduce_precision(wide, exponent, mantissa)
    return wide
