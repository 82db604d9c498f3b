"""The state, the options and the result of a run."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import optax

from stabjax._train.divergence import DIVERGENCE_FACTOR
from stabjax._train.summaries import Summary
from stabjax._types import Number


class BestEvaluation(NamedTuple):
    """The best evaluation of a run with early stopping.

    Attributes:
      value: the value of the measure.
      at: the number of updates before it (int32).
      params: the parameters.
      state: the state of the problem, such as batch statistics, or `()`.
    """

    value: jax.Array
    at: jax.Array
    params: optax.Params
    state: optax.Params


class TrainResult(NamedTuple):
    """The result of one run of `train`.

    Attributes:
      final_loss: the loss at the final parameters, computed with the evaluation key.
      best_loss: the minimum of the losses at all steps and the final loss.
      status: 0 for a stable run, 1 for a diverged run (int8).
      diverged_at: the first diverged step, or the number of steps if the run is stable
        (int32).
      params: the final parameters.
      evaluation: the values returned by `problem.evaluate`, or an empty dict.
      summaries: the requested loss summaries, keyed by name.
      loss: the loss at every recorded step, or None if nothing was recorded.
      metrics: the optimizer metrics after every recorded step, and the metrics returned
        by `problem.loss` at these steps.
      state: the final state of the problem, such as batch statistics, or `()`.
      curves: the values returned by `problem.evaluate` every `evaluate_every` updates.
      stopped_at: the number of updates before early stopping, or the number of steps
        (int32). None without early stopping.
      best: the best evaluation with its parameters. None without an `EarlyStopping`.
    """

    final_loss: jax.Array
    best_loss: jax.Array
    status: jax.Array
    diverged_at: jax.Array
    params: optax.Params
    evaluation: dict[str, jax.Array]
    summaries: dict[str, jax.Array]
    loss: jax.Array | None
    metrics: dict[str, jax.Array]
    state: optax.Params = ()
    curves: dict[str, jax.Array] = {}  # noqa: RUF012
    stopped_at: jax.Array | None = None
    best: BestEvaluation | None = None


class State(NamedTuple):
    """The loop state of a run."""

    step: jax.Array  # not batched under vmap, so all trials share one counter
    params: Any
    model_state: Any  # of the problem, such as batch statistics
    opt_state: Any
    best_loss: jax.Array
    good_steps: jax.Array  # number of steps before the first diverged step
    bound: jax.Array  # losses above this value count as diverged
    summaries: dict[str, Any]


class Record(NamedTuple):
    """The loss and the metrics of a step, computed before its update."""

    loss: jax.Array
    metrics: dict[str, jax.Array]  # returned by the loss


class Training(NamedTuple):
    """The building blocks of a run, for callers that write their own loop."""

    start: State
    step: Callable[[State], tuple[State, Record]]
    result: Callable[..., TrainResult]  # of a state, its step count and its `Watched`
    evaluate: Callable[[State], dict[str, jax.Array]]


class Rules(NamedTuple):
    """Options for detecting divergence and summarizing a run."""

    divergence_factor: Number = DIVERGENCE_FACTOR
    summaries: Mapping[str, Summary] = MappingProxyType({})
    evaluations: int = 1


Step = Callable[[State], tuple[State, Record]]
