"""One training as a pure function: a problem, an optimizer and a key in, arrays out."""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from stabjax._metrics import metrics
from stabjax._train.arguments import (
    check_divergence_factor,
    check_evaluations,
    check_lengths,
    check_summaries,
)
from stabjax._train.problem import Problem
from stabjax._train.summaries import Summary, summaries_of, updated

DIVERGENCE_FACTOR = 1e3
_EVALUATION = 2**31 - 1  # no small number: those are what users fold and split by


class TrainResult(NamedTuple):
    """What `train` returns.

    Attributes:
      final_loss: the loss at the final parameters, on the evaluation key.
      best_loss: the smallest loss of any step, or the final one where that is smaller.
      status: 0 for a training that held, 1 for one that diverged (int8).
      diverged_at: the first step that diverged, or the number of steps (int32).
      params: the final parameters.
      evaluation: what the problem's `evaluate` says of them, or an empty dict.
      summaries: what was asked of all losses, by name.
      loss: the loss of every recorded step, or None where nothing was recorded.
      metrics: the metrics of the optimizer after every recorded step.
    """

    final_loss: jax.Array
    best_loss: jax.Array
    status: jax.Array
    diverged_at: jax.Array
    params: Any
    evaluation: dict[str, jax.Array]
    summaries: dict[str, jax.Array]
    loss: jax.Array | None
    metrics: dict[str, jax.Array]


class State(NamedTuple):
    """What a training carries from step to step."""

    step: jax.Array  # shared by all trials under vmap, and so no part of their cost
    params: Any
    opt_state: Any
    best_loss: jax.Array
    good_steps: jax.Array  # how many steps held before the first that did not
    bound: jax.Array  # above it a loss is a divergence
    summaries: dict[str, Any]


class Training(NamedTuple):
    """A training taken apart."""

    start: State
    step: Callable[[State], tuple[State, jax.Array]]  # gives the loss before it
    result: Callable[[State, Any], TrainResult]  # of a state after so many steps


class Rules(NamedTuple):
    """What is watched while a training runs, and how it is judged."""

    divergence_factor: float | jax.Array = DIVERGENCE_FACTOR
    summaries: Mapping[str, Summary] = MappingProxyType({})
    evaluations: int = 1


_Loss = Callable[[Any, jax.Array], jax.Array]
_Step = Callable[[State], tuple[State, jax.Array]]
_Record = tuple[jax.Array, dict[str, jax.Array]]


def train(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    steps: int,
    record_every: int | None = None,
    divergence_factor: float | jax.Array = DIVERGENCE_FACTOR,
    summaries: Collection[str] = (),
    target_loss: float | jax.Array | None = None,
    evaluations: int = 1,
) -> TrainResult:
    """Trains once, as a pure function that can be jitted, vmapped and differentiated.

    Step t takes w to apply_updates(w, u), with u the optimizer's update for the
    gradient at w of L(w, k_t) and k_t = fold_in(k, t); `key` is split into the key of
    `problem.init` and k. So trainings that share a key start alike and see the same
    minibatches, whatever their hyperparameters. Optimizers that take extra arguments
    get `value` (the loss) and `grad`.

    A training diverges at the first step whose loss, taken before the update, is not
    finite or is above `divergence_factor` times the loss of step 0; where that is not
    positive only the first of the two counts. Where the final loss alone breaks the
    rule, the last step did it. From there on, losses are +inf, and so is what
    `problem.evaluate` says where it is not finite; an accuracy stays what it came to.
    Nothing stops: parameters and metrics are what they became.

    Args:
      problem: has `init(key) -> params`, a tree of floating-point arrays, and
        `loss(params, key) -> scalar`; may have `evaluate(params, key) -> dict of
        scalars`. The final loss and `evaluate` get the same evaluation key in every
        training: fold_in(key(0), 2**31 - 1).
      optimizer: any Optax transformation.
      key: a key of the training, such as `jax.random.key(0)`.
      steps: number of updates; static.
      record_every: records the loss of steps 0, record_every, 2 * record_every ... and
        the metrics of the optimizer after them; static, and compiled fastest where it
        divides `steps`. None records nothing, and memory does not grow with `steps`.
      divergence_factor: in units of the initial loss; traceable; inf switches it off.
      summaries: of the losses of all steps, as names: "mean_loss" (the area under the
        curve divided by the steps; +inf where it diverged) and "convergence_score",
        whose sign says whether the training converged: with the losses l_t in units of
        the first one, and 10^6 where they are larger or not finite, -sum_t l_t if the
        last 20 are below 1 on average, and sum_t 1 / l_t if not. Static.
      target_loss: adds the summary "target_at": the number of updates after which a
        loss was at most this for the first time; +inf where none was, or where it
        diverged. Traceable.
      evaluations: number of evaluation keys, from fold_in(key(0), 2**31 - 1) downwards,
        over which the final loss and `evaluate` are averaged; static.

    Returns:
      A `TrainResult` of arrays: scalars, and one entry for each recorded step.

    Raises:
      ValueError: if `steps`, `record_every`, `divergence_factor`, `target_loss` or
        `evaluations` is out of range, or a summary is unknown.
      TypeError: if `problem` gives anything but floating-point parameters, a
        floating-point scalar as loss and a dict of scalars as evaluation.

    Example:
      >>> import jax, optax, stabjax
      >>> problem = stabjax.problems.quadratic()
      >>> def final_loss(rate):
      ...     optimizer = optax.sgd(rate)
      ...     run = stabjax.train(problem, optimizer, jax.random.key(0), steps=100)
      ...     return run.final_loss
      >>> print(jax.vmap(final_loss)(jax.numpy.array([0.1, 0.9, 1.1])).round(3))
      [ 0.  0. inf]

    Source: the convergence score is that of J. Sohl-Dickstein, "The boundary of neural
    network trainability is fractal", 2024.
    """
    check_lengths(steps, record_every)
    check_divergence_factor(divergence_factor)
    check_summaries(summaries, target_loss)
    check_evaluations(evaluations)
    watched = summaries_of(summaries, target_loss, steps)
    rules = Rules(divergence_factor, watched, evaluations)
    start, step, result_of = training(problem, optimizer, key, rules)
    if record_every is None:
        state, _ = lax.scan(lambda s, _: (step(s)[0], None), start, length=steps)
        return result_of(state, steps)
    state, (trace, seen) = _recorded(step, start, steps, record_every)
    result = result_of(state, steps)
    at = jnp.arange(0, steps, record_every, dtype=jnp.int32)
    trace = jnp.where(at >= result.diverged_at, jnp.inf, trace)
    return result._replace(loss=trace, metrics=seen)


def training(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    rules: Rules,
) -> Training:
    """Takes a training apart: its start, a step of it, and what is said of a state."""
    init_key, step_key = jax.random.split(_typed(key))
    params = _checked_params(problem.init(init_key))
    # Traced once, wherever it stands in the program. A function of its own, since JAX
    # traces one that it knows only once, whatever has changed in its closure.
    loss = jax.jit(lambda params, key: problem.loss(params, key))
    dtype = _loss_dtype(jax.eval_shape(loss, params, step_key))
    unbounded, zero = jnp.asarray(jnp.inf, dtype), jnp.asarray(0, jnp.int32)
    start = State(
        step=zero,
        params=params,
        opt_state=optimizer.init(params),
        best_loss=unbounded,
        good_steps=zero,
        bound=unbounded,
        summaries={name: s.start(dtype) for name, s in rules.summaries.items()},
    )
    return Training(
        start,
        _stepper(loss, optimizer, step_key, rules),
        lambda state, steps: _result(problem, loss, rules, state, steps),
    )


def _typed(key: jax.Array | np.ndarray[Any, Any]) -> jax.Array:
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise TypeError(
            f"key must be a key such as jax.random.key(0), got {type(key).__name__}."
        )
    typed: jax.Array = jnp.asarray(key)
    if not jnp.issubdtype(typed.dtype, jax.dtypes.prng_key):
        typed = jax.random.wrap_key_data(typed)
    return typed


def _checked_params(params: Any) -> Any:
    params = jax.tree.map(jnp.asarray, params)
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"problem.init must return floating-point arrays, got {leaf.dtype} "
                f"at params{jax.tree_util.keystr(path)}."
            )
    return params


def _loss_dtype(loss: Any) -> np.dtype[Any]:
    """Checks what a loss returns, and says in what type it is compared."""
    if not isinstance(loss, jax.ShapeDtypeStruct):
        raise TypeError(
            f"problem.loss must return a scalar, got a {type(loss).__name__}."
        )
    if loss.shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise TypeError(
            f"problem.loss must return a floating-point scalar, got an array of "
            f"shape {loss.shape} and type {loss.dtype}."
        )
    return _wide(loss.dtype)


def _wide(dtype: Any) -> np.dtype[Any]:
    """A type that holds +inf and whatever can be compared: float32 or wider."""
    wide = jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).itemsize >= 4
    found: np.dtype[Any] = np.dtype(dtype if wide else np.float32)
    return found


def _stepper(
    loss: _Loss,
    optimizer: optax.GradientTransformation,
    step_key: jax.Array,
    rules: Rules,
) -> _Step:
    tx = optax.with_extra_args_support(optimizer)

    def step(state: State) -> tuple[State, jax.Array]:
        value, grads = jax.value_and_grad(loss)(
            state.params, jax.random.fold_in(step_key, state.step)
        )
        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, value=value, grad=grads
        )
        value = value.astype(state.best_loss.dtype)
        bound = jnp.where(
            state.step == 0, _bound(value, rules.divergence_factor), state.bound
        )
        held = _holds(value, bound) & (state.good_steps == state.step)
        return State(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            best_loss=jnp.minimum(state.best_loss, value),
            good_steps=state.good_steps + held.astype(jnp.int32),
            bound=bound,
            summaries=updated(rules.summaries, state.summaries, value, state.step),
        ), value

    return step


def _bound(first_loss: jax.Array, factor: float | jax.Array) -> jax.Array:
    factor = jnp.asarray(factor, first_loss.dtype)
    return jnp.where(first_loss > 0, factor * first_loss, jnp.inf)


def _holds(loss: jax.Array, bound: jax.Array) -> jax.Array:
    return jnp.isfinite(loss) & (loss <= bound)


def _recorded(
    step: _Step, start: State, steps: int, every: int
) -> tuple[State, _Record]:
    """Runs blocks of `every` steps and a last, shorter one; records the first of each.

    That step stands before the loop over the others, which so do without the metrics:
    selecting the record within one loop made a small problem twice as slow.
    """

    def block(state: State, length: int) -> tuple[State, _Record]:
        state, loss = step(state)
        record = loss, metrics(state.opt_state)
        state, _ = lax.scan(lambda s, _: (step(s)[0], None), state, length=length - 1)
        return state, record

    state, records = lax.scan(
        lambda state, _: block(state, every), start, length=steps // every
    )
    if rest := steps % every:
        state, last = block(state, rest)
        records = jax.tree.map(lambda r, x: jnp.append(r, x[None]), records, last)
    return state, records


def _result(
    problem: Problem, loss: _Loss, rules: Rules, state: State, steps: Any
) -> TrainResult:
    final, evaluation = _final(problem, loss, state.params, rules.evaluations)
    final = final.astype(state.best_loss.dtype)
    lost_last = (state.good_steps == steps) & ~_holds(final, state.bound)
    diverged_at = state.good_steps - lost_last.astype(jnp.int32)
    diverged = diverged_at < steps

    def told(value: jax.Array) -> jax.Array:
        # An accuracy stays what it is, near chance: +inf would be the best of all.
        return jnp.where(diverged & ~jnp.isfinite(value), jnp.inf, value)

    def loss_told(value: jax.Array) -> jax.Array:
        return jnp.where(diverged, jnp.inf, value)

    summaries = {
        name: summary.result(state.summaries[name], final)
        for name, summary in rules.summaries.items()
    }
    return TrainResult(
        final_loss=loss_told(final),
        best_loss=loss_told(jnp.minimum(state.best_loss, final)),
        status=diverged.astype(jnp.int8),
        diverged_at=diverged_at,
        params=state.params,
        evaluation={name: told(value) for name, value in evaluation.items()},
        summaries={
            name: loss_told(value) if rules.summaries[name].is_loss else value
            for name, value in summaries.items()
        },
        loss=None,
        metrics={},
    )


def _final(
    problem: Problem, loss: _Loss, params: Any, evaluations: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss and evaluation, averaged over the evaluation keys."""

    def at(key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return loss(params, key), _evaluation(problem, params, key)

    first = jax.random.key(0)
    if evaluations == 1:
        return at(jax.random.fold_in(first, _EVALUATION))
    found = lax.map(
        lambda number: at(jax.random.fold_in(first, number)),
        _EVALUATION - jnp.arange(evaluations, dtype=jnp.int32),
    )
    mean: tuple[jax.Array, dict[str, jax.Array]]
    mean = jax.tree.map(lambda values: values.mean(axis=0), found)
    return mean


def _evaluation(problem: Problem, params: Any, key: jax.Array) -> dict[str, jax.Array]:
    evaluate = getattr(problem, "evaluate", None)
    if evaluate is None:
        return {}
    found = evaluate(params, key)
    if not isinstance(found, dict) or any(np.ndim(v) != 0 for v in found.values()):
        raise TypeError(
            f"problem.evaluate must return a dict of scalars, got "
            f"{jax.tree.map(np.shape, found)!r}."
        )
    values = {name: jnp.asarray(value) for name, value in found.items()}
    return {name: value.astype(_wide(value.dtype)) for name, value in values.items()}
