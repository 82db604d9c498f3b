"""Records what a transformation did to the gradient."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from stabjax._arguments import check_choice
from stabjax._metrics.collection import metric_key
from stabjax._norms import global_norm, is_float0, leaf_norms, norm_dtype, widened
from stabjax._paths import check_arrays, leaf_paths

LeafMetric: TypeAlias = Literal["grad_norm", "norm_share", "update_norm", "param_norm"]


class Report(NamedTuple):
    """What a transformation did to the updates."""

    grad_norm: jax.Array
    update_norm: jax.Array
    clipped: jax.Array


class ReportingTransformation(
    optax.GradientTransformation  # type: ignore[misc]  # Optax's is untyped
):
    """A transformation that reports what it does, which saves measuring it.

    On CPUs measuring is slow: a sum over an expression that is not stored takes many
    times as long as one over an array. A copy with parts replaced has no report.
    """

    report: Callable[..., Report] | None = None  # of the arguments of `update`


class MetricsState(NamedTuple):
    """State of `with_metrics`.

    Attributes:
      inner_state: the state of the wrapped transformation.
      metrics_step: int32: number of updates.
      clip_count: int32: updates in which an element became smaller.
      metrics: scalars that `stabjax.metrics` collects.
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
    """Records what a transformation does to the gradient, for the logs.

    With the gradient `g` and the update `u`, the state holds, for `stabjax.metrics` to
    read: `name/grad_norm = ||g||_2`, `name/update_norm = ||u||_2`, `name/clipped`
    (whether `|u_i| < |g_i|` for some element in the last update) and
    `name/clip_fraction` (the fraction of updates so far in which that was so). A
    non-finite gradient shows as a non-finite norm.

    Of `stabjax.clip_by_global_norm`, whether it clipped is known from the norm and the
    threshold; of other transformations it is measured, between values rounded alike.

    Args:
      transformation: any Optax transformation. Its updates are unchanged, and extra
        arguments such as `value` reach it.
      name: stands in front of the metrics' names. **Static.**
      per_leaf: also record metrics of each parameter, as `name/grad_norm/` and its
        path, such as `dense/kernel`. True records `grad_norm` and `norm_share`, the
        parameter's part of the squared norm; a sequence selects among these,
        `update_norm` and `param_norm`. **Static.**
      axis_name: the mapped axes over which the leaves are sharded, as in
        `stabjax.global_norm`, for axes that types do not show. Give it to the clip too:
        clips with a fixed or scheduled threshold report with their own. **Static.**

    Returns:
      A transformation with a `MetricsState`. Metrics are 0 before the first update;
      norms are float32, or float64 if a parameter is.

    Raises:
      TypeError: `transformation` is not an Optax transformation, `name` is not a
        string, or a leaf of the parameters is not an array.
      ValueError: `per_leaf` names an unknown metric, or `param_norm` is recorded and
        `update` gets no parameters.

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
        # Arrays of their own: no buffer of a donated state may occur twice.
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
    """Counts one more step: the steps, those that clipped, and their fraction."""
    steps = optax.safe_increment(steps)
    clips = jnp.where(clipped, optax.safe_increment(clips), clips)
    return steps, clips, clips.astype(jnp.float32) / steps.astype(jnp.float32)


def check_transformation(argument: str, value: object) -> None:
    """Raises unless the value is a transformation; a function that makes one is not."""
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
    """The metrics of each leaf, by the name of the metric and the path of the leaf."""
    if params is None and "param_norm" in leaf_metrics:
        raise ValueError("params must be given to update for 'param_norm', got None.")
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
    """The part of each norm in the sum of their squares, without overflow."""
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
    """The transformation's own report, if it has one, or else a measured one."""
    if known is None:
        return Report(
            global_norm(grads, axis_name=axis_name),
            global_norm(updates, axis_name=axis_name),
            _any_smaller(updates, grads, axis_name),
        )
    leaves = [leaf for leaf in jax.tree.leaves(grads) if not is_float0(leaf)]
    if all(jnp.result_type(leaf) == norm_dtype(leaves) for leaf in leaves):
        return known
    # Rounding to a short dtype changes the norm of the updates.
    return known._replace(update_norm=global_norm(updates, axis_name=axis_name))


def _any_smaller(
    updates: optax.Updates, grads: optax.Updates, axis_name: object
) -> jax.Array:
    """Whether an element became smaller; norms cannot tell, as their rounding differs.

    The flags of all shards are combined as a norm.
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
    """An array in a wider dtype, with the values that it has in its own.

    XLA leaves out the rounding of an intermediate bfloat16 or float16 array
    (`xla_allow_excess_precision`, jax 0.10), so that an array and a copy of it compare
    as different; a precision reduced on purpose stays.
    """
    own = jnp.result_type(x)
    wide = widened(x, dtype)
    if own in (jnp.bfloat16, jnp.float16):
        exponent, mantissa = (8, 7) if own == jnp.bfloat16 else (5, 10)
        wide = lax.reduce_precision(wide, exponent, mantissa)
    return wide
