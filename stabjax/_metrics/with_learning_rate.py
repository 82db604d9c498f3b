"""Learning rates as metrics."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stabjax._arguments import as_number, is_schedule
from stabjax._norms import norm_dtype
from stabjax._types import Number, Schedule


class LearningRateState(NamedTuple):
    """State of `with_learning_rate`. Field names follow `optax.inject_hyperparams`.

    Attributes:
      count: number of updates (int32).
      hyperparams: learning rate of the last update.
      inner_state: state of the wrapped optimizer.
    """

    count: jax.Array  # type: ignore[assignment]  # overrides tuple.count
    hyperparams: dict[str, jax.Array]
    inner_state: optax.OptState


def with_learning_rate(
    optimizer: Callable[..., optax.GradientTransformation],
    learning_rate: Number | Schedule,
    **kwargs: object,
) -> optax.GradientTransformationExtraArgs:
    """Creates an optimizer that reports its learning rate as a metric.

    Returns the same updates as `optimizer(learning_rate=learning_rate, **kwargs)`.
    `stabjax.metrics` reports the learning rate of the last update as `learning_rate`.
    All other arguments keep their precision. In contrast,
    `optax.inject_hyperparams(optax.adamw)` casts them to the dtype of the parameters.
    In bfloat16, this rounds `b2=0.999` to 1.0 and turns the loss into NaN.

    If the `learning_rate` parameter of `optimizer` is annotated as a schedule, as in
    most of Optax, it receives a schedule. Otherwise it receives a number.

    Args:
      optimizer: a function with a `learning_rate` parameter that returns an Optax
        transformation, such as `optax.adamw`.
      learning_rate: a number, or a schedule of the number of updates. A number can be
        changed later in `state.hyperparams["learning_rate"]`. **Traceable.**
      **kwargs: other arguments of `optimizer`.

    Returns:
      A transformation with a `LearningRateState`. The learning rate is float64 if any
      parameter is float64, and float32 otherwise.

    Raises:
      TypeError: If `optimizer` has no `learning_rate` parameter, or `learning_rate` is
        neither a number nor a schedule.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> rate = stabjax.linear_schedule(0.1, 0.0, 10)
      >>> tx = stabjax.with_learning_rate(optax.adamw, rate, weight_decay=1e-4)
      >>> params = jnp.ones(2, jnp.bfloat16)
      >>> state = tx.init(params)
      >>> for _ in range(3):
      ...     updates, state = tx.update(params, state, params)
      ...     print(round(float(stabjax.metrics(state)["learning_rate"]), 4))
      0.1
      0.09
      0.08
    """
    parameter = _learning_rate_parameter(optimizer)
    if not is_schedule(learning_rate):
        as_number("learning_rate", learning_rate)
    takes_schedule = any(
        word in str(parameter.annotation) for word in ("Schedule", "Callable")
    )

    def made(rate: jax.Array) -> optax.GradientTransformationExtraArgs:
        given = (lambda count: rate) if takes_schedule else rate
        return optax.with_extra_args_support(optimizer(learning_rate=given, **kwargs))

    def rate_at(count: jax.Array, known: Any, dtype: Any) -> jax.Array:
        rate = learning_rate(count) if is_schedule(learning_rate) else known
        # Copied because a donated state would delete the caller's array.
        return jnp.array(rate, dtype)

    def init_fn(params: optax.Params) -> LearningRateState:
        count = jnp.zeros((), jnp.int32)
        rate = rate_at(count, learning_rate, norm_dtype(params))
        inner_state = made(rate).init(params)
        return LearningRateState(count, {"learning_rate": rate}, inner_state)

    def update_fn(
        updates: optax.Updates,
        state: LearningRateState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LearningRateState]:
        known = state.hyperparams["learning_rate"]
        rate = rate_at(state.count, known, known.dtype)
        updates, inner_state = made(rate).update(
            updates, state.inner_state, params, **extra_args
        )
        count = optax.safe_increment(state.count)
        return updates, LearningRateState(count, {"learning_rate": rate}, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _learning_rate_parameter(optimizer: object) -> inspect.Parameter:
    parameters = inspect.signature(optimizer).parameters if callable(optimizer) else {}
    if "learning_rate" not in parameters:
        raise TypeError(
            "optimizer must be a function with a parameter 'learning_rate', such as "
            f"optax.adamw, got {optimizer!r}."
        )
    return parameters["learning_rate"]
