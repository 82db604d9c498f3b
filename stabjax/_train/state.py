"""What a run carries from step to step, and what it returns."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import optax

from stabjax._train.divergence import DIVERGENCE_FACTOR
from stabjax._train.summaries import Summary
from stabjax._types import Number


class TrainResult(NamedTuple):
    """The result of one run of `train`.

    Attributes:
      final_loss: the loss at the final parameters, on the evaluation key.
      best_loss: the smallest loss of any step, or the final one if that is smaller.
      status: 0 for a stable run, 1 for one that diverged (int8).
      diverged_at: the first step that diverged, or the number of steps (int32).
      params: the final parameters.
      evaluation: the values that `problem.evaluate` returns, or an empty dict.
      summaries: the requested summaries of all losses, by name.
      loss: the loss of every recorded step, or None if nothing was recorded.
      metrics: the metrics of the optimizer after every recorded step, and those that
        `problem.loss` returns.
      state: the final state of the problem, such as batch statistics; `()` without one.
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
    state: Any = ()


class State(NamedTuple):
    """The state of a run between two steps."""

    step: jax.Array  # shared by all trials under vmap, so that it costs nothing
    params: Any
    model_state: Any  # that of the problem, such as batch statistics
    opt_state: Any
    best_loss: jax.Array
    good_steps: jax.Array  # the number of steps before the first that diverged
    bound: jax.Array  # a loss above it has diverged
    summaries: dict[str, Any]


class Record(NamedTuple):
    """What a step measures, before its update."""

    loss: jax.Array
    metrics: dict[str, jax.Array]  # that the problem's loss returns


class Training(NamedTuple):
    """A run in parts, for loops other than that of `train`."""

    start: State
    step: Callable[[State], tuple[State, Record]]
    result: Callable[[State, Any], TrainResult]  # of a state after N steps


class Rules(NamedTuple):
    """How a run is judged and summarized."""

    divergence_factor: Number = DIVERGENCE_FACTOR
    summaries: Mapping[str, Summary] = MappingProxyType({})
    evaluations: int = 1


Step = Callable[[State], tuple[State, Record]]
