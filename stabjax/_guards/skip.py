"""Wrappers that skip a bad step: no update, and nothing of the optimizer moves."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from stabjax._guards.guard import Seen, Verdict, guard
from stabjax._guards.history import History, limits_of, no_history, recorded
from stabjax._schedules.arguments import check


def skip_if_nonfinite(
    inner: optax.GradientTransformation,
    max_consecutive: ArrayLike = jnp.inf,
    *,
    axis_name: Hashable | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Skips the steps whose gradient is not finite.

    If an entry of the gradient is inf or NaN, the update is zero and the state of
    ``inner`` stays as it was, its counters of steps included. The guard has no
    statistics: the next finite gradient is an ordinary step. Derivatives through a
    skipped step are finite; those by its gradient are zero (what computed a NaN may
    still make NaN of that zero).

    Args:
      inner: the optimizer, all of it; extra arguments are passed on to it.
      max_consecutive: after so many skipped steps in a row the next bad step passes, as
        do those that follow it until a good one; at least 0. Infinite: none ever does.
        Traceable.
      axis_name: name of the mapped axis of ``shard_map`` along which every leaf is
        taken to be sharded, so that all shards decide alike; static.

    Returns:
      A transformation with a ``GuardState``. Its metrics are ``skipped`` (whether
      the last step was), ``skip_count``, ``skip_fraction``, ``consecutive`` (bad steps
      in a row), ``nonfinite`` (whether the last step was), ``nonfinite_count``,
      ``nonfinite_leaf`` (the position, in the tree, of the first leaf that was not
      finite when that began last; -1 if all always were) and ``grad_norm``. See
      :func:`stabjax.check`.

    Raises:
      TypeError: if ``inner`` is no Optax transformation.
      ValueError: if ``max_consecutive`` is negative.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> optimizer = stabjax.skip_if_nonfinite(optax.sgd(0.1))
      >>> state = optimizer.init(jnp.zeros(2))
      >>> updates, state = optimizer.update(jnp.array([1.0, jnp.nan]), state)
      >>> print(updates, int(stabjax.metrics(state)["skip_if_nonfinite/skip_count"]))
      [0. 0.] 1

    Source: Optax's ``apply_if_finite``, which has a finite limit.
    """

    def judge(seen: Seen, history: Any) -> Verdict:
        del seen
        return Verdict({}, {}, history)

    return guard(
        "skip_if_nonfinite", inner, judge, lambda dtype: (), max_consecutive, axis_name
    )


def skip_above_norm(
    inner: optax.GradientTransformation,
    drop_norm: ArrayLike | Callable[[ArrayLike], ArrayLike],
    max_consecutive: ArrayLike = jnp.inf,
    *,
    axis_name: Hashable | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Skips the steps whose gradient is too large, or not finite.

    A step is skipped, as by :func:`stabjax.skip_if_nonfinite`, unless
    :math:`\|g\|_2 \le d`. The guard has no statistics: the next gradient within the
    limit is an ordinary step, and after a lasting change of scale it is the limit
    that must change.

    Args:
      inner: the optimizer, all of it; extra arguments are passed on to it.
      drop_norm: :math:`d`, at least 0, or a schedule of it, given the number of steps
        so far, skipped ones included. Traceable.
      max_consecutive: after so many skipped steps in a row the next one passes;
        infinite: none ever does. Traceable.
      axis_name: name of the mapped axis along which every leaf is sharded; static.

    Returns:
      A transformation with a ``GuardState``; its metrics are those of
      :func:`stabjax.skip_if_nonfinite`, ``drop_norm``, and ``large_count``.

    Raises:
      TypeError: if ``inner`` is no Optax transformation.
      ValueError: if a number is negative.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> optimizer = stabjax.skip_above_norm(optax.sgd(0.1), drop_norm=4.0)
      >>> state = optimizer.init(jnp.zeros(2))
      >>> updates, state = optimizer.update(jnp.array([3.0, 4.0]), state)
      >>> print(updates)
      [0. 0.]

    Source: ``drop_norm`` of Apple's AXLearn; Megatron's threshold to skip by norm.
    """
    if not callable(drop_norm):
        check("drop_norm", drop_norm, lambda x: x >= 0, "at least 0")

    def judge(seen: Seen, history: Any) -> Verdict:
        limit = drop_norm(seen.step) if callable(drop_norm) else drop_norm
        limit = jnp.asarray(limit).astype(seen.grad_norm.dtype)
        large = ~seen.nonfinite & ~(seen.grad_norm <= limit)
        return Verdict({"large_count": large}, {"drop_norm": limit}, history)

    return guard(
        "skip_above_norm", inner, judge, lambda dtype: (), max_consecutive, axis_name
    )


def skip_on_spike(
    inner: optax.GradientTransformation,
    window: int = 128,
    sigma: ArrayLike = 6.0,
    *,
    min_count: ArrayLike | None = None,
    max_consecutive: ArrayLike = jnp.inf,
    axis_name: Hashable | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Skips the steps whose loss or gradient norm leaps, or is not finite.

    With :math:`m` and :math:`s` the mean and the standard deviation of the last
    ``window`` losses before this one, the loss :math:`x` is a spike if
    :math:`x > m + \sigma \max(s, 10^{-6} M)`, where :math:`M` is the largest of their
    magnitudes; so is a gradient norm, by the last norms. A step with a spike is
    skipped, as by :func:`stabjax.skip_if_nonfinite`.

    Spikes are remembered, so that a lasting rise is accepted: a leap to a new level, of
    any height, after at most :math:`\lceil w / (1 + \sigma^2) \rceil` skipped steps,
    which are 4 with the defaults; and ``window`` steps later the old level is forgotten
    and the guard as alert as before. What is not finite is never remembered, and the
    step after it is an ordinary one.

    OLMo-core's rule multiplies by 0 what is skipped, which keeps NaN; remembers NaN,
    and skips the ``window`` steps that follow; skips the second step of a window of
    five or less, whose deviation is NaN; and skips any rise at all after a constant.

    Args:
      inner: the optimizer, all of it; extra arguments are passed on to it.
      window: losses and norms to remember, at least 2; static.
      sigma: :math:`\sigma`, at least 0. Traceable.
      min_count: nothing is a spike before so many steps were remembered, from 1 to
        ``window``; None is half the window, and at least 2. Traceable.
      max_consecutive: after so many skipped steps in a row the next one passes;
        infinite: only by the rule above. Traceable.
      axis_name: name of the mapped axis along which every leaf is sharded; static.

    Returns:
      A transformation with a ``GuardState``. Its ``update`` takes the loss as the
      extra argument ``value``; without it, only the norm is watched. Metrics are those
      of :func:`stabjax.skip_if_nonfinite`, the limits ``value_limit`` and
      ``grad_norm_limit``, and how often each of them was exceeded: ``grad_norm_count``
      and ``value_count``, which counts the losses that were not finite, too.

    Raises:
      TypeError: if ``inner`` is no Optax transformation.
      ValueError: if a number is out of range.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> optimizer = stabjax.skip_on_spike(optax.sgd(1.0), window=4)
      >>> state = optimizer.init(jnp.zeros(()))
      >>> for loss in (2.0, 2.1, 1.9, 9.0, 2.0):
      ...     update, state = optimizer.update(jnp.ones(()), state, value=loss)
      ...     print(float(update), end=" ")
      -1.0 -1.0 -1.0 0.0 -1.0

    Source: Ai2's OLMo-core, ``SkipStepOptimizer``.
    """
    if not isinstance(window, int | np.integer) or window < 2:
        raise ValueError(f"window must be an integer of at least 2, got {window!r}")
    least = max(2, window // 2) if min_count is None else min_count
    check("sigma", sigma, lambda x: x >= 0, "at least 0")
    check("min_count", least, lambda x: (x >= 1) & (x <= window), f"from 1 to {window}")

    def judge(seen: Seen, history: History) -> Verdict:
        latest = jnp.stack([_loss(seen), seen.grad_norm])
        limits = limits_of(history, sigma, least)
        finite = jnp.isfinite(latest)
        spikes = jnp.where(finite, latest > limits, False)
        return Verdict(
            {"value_count": spikes[0] | ~finite[0], "grad_norm_count": spikes[1]},
            {"value_limit": limits[0], "grad_norm_limit": limits[1]},
            recorded(history, latest),
        )

    return guard(
        "skip_on_spike",
        inner,
        judge,
        partial(no_history, window),
        max_consecutive,
        axis_name,
    )


def _loss(seen: Seen) -> jax.Array:
    """The loss of a step; without one a constant, which never leaps."""
    value = jnp.asarray(0 if seen.value is None else seen.value)
    if value.size != 1:
        raise ValueError(f"value must be a scalar, got shape {value.shape}")
    return value.reshape(()).astype(seen.grad_norm.dtype)
