"""A single training run as a pure function."""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from stabjax._metrics import metrics
from stabjax._train.arguments import check_lengths, check_rules
from stabjax._train.problem import Problem
from stabjax._train.summaries import Summary, summaries_of, updated
from stabjax._types import Number

DIVERGENCE_FACTOR = 1e3
_EVALUATION = 2**31 - 1  # a large number, because users fold in small ones


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
      metrics: the optimizer metrics after every recorded step.
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


class State(NamedTuple):
    """The loop state of a run."""

    step: jax.Array  # not batched under vmap, so all trials share one counter
    params: Any
    opt_state: Any
    best_loss: jax.Array
    good_steps: jax.Array  # number of steps before the first diverged step
    bound: jax.Array  # losses above this value count as diverged
    summaries: dict[str, Any]


class Training(NamedTuple):
    """The building blocks of a run, for callers that write their own loop."""

    start: State
    step: Callable[[State], tuple[State, jax.Array]]  # returns the loss before updating
    result: Callable[[State, Any], TrainResult]  # takes a state and its step count


class Rules(NamedTuple):
    """Options for detecting divergence and summarizing a run."""

    divergence_factor: Number = DIVERGENCE_FACTOR
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
    divergence_factor: Number = DIVERGENCE_FACTOR,
    summaries: Collection[str] = (),
    target_loss: Number | None = None,
    evaluations: int = 1,
) -> TrainResult:
    """Trains once, as a pure function that can be jitted, vmapped and differentiated.

    `key` is split into an initialization key, which is passed to `problem.init`, and a
    step key k. At step t the optimizer receives the gradient of
    `loss(params, fold_in(k, t))`, and its update is applied to the parameters. Runs
    with the same key therefore have the same initial parameters and the same
    minibatches, regardless of their hyperparameters. Optimizers that accept extra
    arguments also receive `value` (the loss) and `grad`.

    A run diverges at the first step whose loss before the update is not finite or
    exceeds `divergence_factor` times the loss at step 0. If the loss at step 0 is not
    positive, only non-finite losses count as divergence. If only the final loss
    violates the rule, the run diverges at the last step. Losses are +inf from the
    diverged step onwards, and non-finite values returned by `problem.evaluate` become
    +inf. Finite values, such as accuracies, are kept. The loop always runs to the end,
    and the returned parameters and metrics are those after all steps.

    Args:
      problem: a `stabjax.problems.Problem`, or an object with `init(key) -> params` (a
        pytree of floating-point arrays), `loss(params, key) -> scalar` and optionally
        `evaluate(params, key) -> dict of scalars`. The final loss and `evaluate` use
        the same evaluation key in every run, `fold_in(key(0), 2**31 - 1)`.
      optimizer: an Optax gradient transformation.
      key: the random key of the run, such as `jax.random.key(0)`.
      steps: number of updates, >= 1. **Static.**
      record_every: records the loss at steps 0, record_every, 2 * record_every, ... and
        the optimizer metrics after each of these steps, in [1, steps]. Compilation is
        fastest if it divides `steps`. None records nothing, and memory use does not
        grow with `steps`. **Static.**
      divergence_factor: a loss above this multiple of the initial loss counts as
        diverged, > 0. Pass inf to disable the bound. **Traceable.**
      summaries: names of loss summaries. `"mean_loss"` is the mean loss over all steps,
        or +inf if the run diverged. `"convergence_score"` divides the losses by the
        initial loss and caps them at 1e6, which gives l_t. It is `-sum_t l_t` if the
        mean of the last 20 values is below 1 (converged) and `sum_t 1 / l_t` otherwise.
        **Static.**
      target_loss: adds the summary `"target_at"`, the number of updates after which the
        loss first reached this value. It is +inf if the loss never did or the run
        diverged. **Traceable.**
      evaluations: number of evaluation keys over which the final loss and `evaluate`
        are averaged, >= 1. The keys are `fold_in(key(0), 2**31 - 1 - i)` for i = 0, 1,
        and so on. **Static.**

    Returns:
      A `TrainResult`. Recorded values have one element for each recorded step.

    Raises:
      ValueError: If an argument is out of range or a summary is unknown.
      TypeError: If a static argument is not an integer, or if `problem` does not return
        floating-point parameters, a floating-point scalar loss and a dict of scalars.

    Example:
      >>> import jax, optax, stabjax
      >>> problem = stabjax.problems.quadratic()
      >>> def final_loss(rate):
      ...     optimizer = optax.sgd(rate)
      ...     run = stabjax.train(problem, optimizer, jax.random.key(0), steps=100)
      ...     return run.final_loss
      >>> print(jax.vmap(final_loss)(jax.numpy.array([0.1, 0.9, 1.1])).round(3))
      [ 0.  0. inf]

    References:
      J. Sohl-Dickstein, "The boundary of neural network trainability is fractal", 2024,
      https://arxiv.org/abs/2402.06184 (the convergence score).
    """
    steps, record_every, evaluations = check_lengths(steps, record_every, evaluations)
    check_rules(divergence_factor, summaries, target_loss)
    watched = summaries_of(summaries, target_loss, steps)
    rules = Rules(divergence_factor, watched, evaluations)
    start, step, result_of = training(problem, optimizer, key, rules)
    if record_every is None:
        state, _ = lax.scan(lambda s, _: (step(s)[0], None), start, length=steps)
        return result_of(state, steps)
    state, (trace, recorded) = _recorded(step, start, steps, record_every)
    result = result_of(state, steps)
    at = jnp.arange(0, steps, record_every, dtype=jnp.int32)
    trace = jnp.where(at >= result.diverged_at, jnp.inf, trace)
    return result._replace(loss=trace, metrics=recorded)


def training(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    rules: Rules,
) -> Training:
    """Returns the initial state, the step function and the result function of a run."""
    init_key, step_key = jax.random.split(_typed(key))
    params = _checked_params(problem.init(init_key))
    # Jitted so that it is traced once, although the program calls it several times. The
    # lambda is new in each call because JAX caches traces by function identity and
    # would miss a change in the closure of problem.loss.
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
    for path, leaf in jax.tree.leaves_with_path(params):
        try:
            dtype: Any = jnp.asarray(leaf).dtype
        except TypeError:  # a function, such as the activation in an Equinox module
            dtype = getattr(leaf, "__name__", type(leaf).__name__)
        if isinstance(dtype, str) or not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"problem.init must return floating-point arrays, got {dtype} "
                f"at params{jax.tree_util.keystr(path)}."
            )
    return jax.tree.map(jnp.asarray, params)


def _loss_dtype(loss: Any) -> np.dtype[Any]:
    """Checks the output of a loss and returns the dtype for comparing losses."""
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
    """Returns the dtype itself if it is float32 or wider, and float32 otherwise."""
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
        stable = _is_stable(value, bound) & (state.good_steps == state.step)
        return State(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            best_loss=jnp.minimum(state.best_loss, value),
            good_steps=state.good_steps + stable.astype(jnp.int32),
            bound=bound,
            summaries=updated(rules.summaries, state.summaries, value, state.step),
        ), value

    return step


def _bound(first_loss: jax.Array, factor: Number) -> jax.Array:
    factor = jnp.asarray(factor, first_loss.dtype)
    return jnp.where(first_loss > 0, factor * first_loss, jnp.inf)


def _is_stable(loss: jax.Array, bound: jax.Array) -> jax.Array:
    return jnp.isfinite(loss) & (loss <= bound)


def _recorded(
    step: _Step, start: State, steps: int, every: int
) -> tuple[State, _Record]:
    """Runs the steps in blocks of `every` and records the first step of each block.

    The recorded step runs outside the inner loop, whose body then computes no metrics.
    Selecting the recorded steps inside a single loop made a small problem twice as
    slow.
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
    lost_last = (state.good_steps == steps) & ~_is_stable(final, state.bound)
    diverged_at = state.good_steps - lost_last.astype(jnp.int32)
    diverged = diverged_at < steps

    def evaluated(value: jax.Array) -> jax.Array:
        # A finite accuracy is kept, because +inf would rank a diverged run first.
        return jnp.where(diverged & ~jnp.isfinite(value), jnp.inf, value)

    def as_loss(value: jax.Array) -> jax.Array:
        return jnp.where(diverged, jnp.inf, value)

    summaries = {
        name: summary.result(state.summaries[name], final)
        for name, summary in rules.summaries.items()
    }
    return TrainResult(
        final_loss=as_loss(final),
        best_loss=as_loss(jnp.minimum(state.best_loss, final)),
        status=diverged.astype(jnp.int8),
        diverged_at=diverged_at,
        params=state.params,
        evaluation={name: evaluated(value) for name, value in evaluation.items()},
        summaries={
            name: as_loss(value) if rules.summaries[name].is_loss else value
            for name, value in summaries.items()
        },
        loss=None,
        metrics={},
    )


def _final(
    problem: Problem, loss: _Loss, params: Any, evaluations: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the loss and the evaluation, averaged over the evaluation keys."""

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
