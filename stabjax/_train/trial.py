"""One run as a pure function: a problem, an optimizer and a key in, arrays out."""

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
_EVALUATION = 2**31 - 1  # users fold and split by small numbers


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
      metrics: the metrics of the optimizer after every recorded step.
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
    """The state of a run between two steps."""

    step: jax.Array  # shared by all trials under vmap, so that it costs nothing
    params: Any
    opt_state: Any
    best_loss: jax.Array
    good_steps: jax.Array  # the number of steps before the first that diverged
    bound: jax.Array  # a loss above it has diverged
    summaries: dict[str, Any]


class Training(NamedTuple):
    """A run in parts, for loops other than that of `train`."""

    start: State
    step: Callable[[State], tuple[State, jax.Array]]  # also returns the loss before it
    result: Callable[[State, Any], TrainResult]  # of a state after N steps


class Rules(NamedTuple):
    """How a run is judged and summarized."""

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

    Step t replaces the parameters w by `apply_updates(w, u)`, where u is the
    optimizer's update for the gradient of `loss(w, k_t)` and `k_t = fold_in(k, t)`.
    `key` is split into the key of `problem.init` and k. Runs that share a key start
    from the same parameters and see the same minibatches, whatever their
    hyperparameters. Optimizers with extra arguments receive `value` (the loss) and
    `grad`.

    A run diverges at the first step whose loss, before the update, is not finite or
    exceeds `divergence_factor` times the loss of step 0. If the loss of step 0 is not
    positive, only non-finite losses count. If only the final loss breaks the rule, the
    last step diverged. From that step on the losses are +inf, and so are non-finite
    values of `problem.evaluate`; an accuracy keeps its value. The loop does not stop:
    parameters and metrics are those after all steps.

    Args:
      problem: a `stabjax.problems.Problem`, or an object with `init(key) -> params` (a
        pytree of floating-point arrays), `loss(params, key) -> scalar` and optionally
        `evaluate(params, key) -> dict of scalars`. The final loss and `evaluate` use
        the same evaluation key in every run: `fold_in(key(0), 2**31 - 1)`.
      optimizer: any Optax transformation.
      key: the key of the run, such as `jax.random.key(0)`.
      steps: number of updates, >= 1. Static.
      record_every: records the loss of steps 0, record_every, 2 * record_every, ... and
        the metrics of the optimizer after them, in [1, steps]. It compiles fastest if
        it divides `steps`. None records nothing, and memory does not grow with `steps`.
        Static.
      divergence_factor: largest allowed loss in units of the initial loss, > 0; inf
        switches the bound off. Traceable.
      summaries: names of summaries of all losses: `"mean_loss"`, the area under the
        curve divided by the steps, +inf if the run diverged; and
        `"convergence_score"`. With the losses l_t in units of the first one, capped at
        1e6, the score is `-sum_t l_t` if the mean of the last 20 is below 1
        (converged), and `sum_t 1 / l_t` otherwise. Static.
      target_loss: adds the summary `"target_at"`: the number of updates after which a
        loss first reached this value; +inf if none did or the run diverged. Traceable.
      evaluations: number of evaluation keys, from `fold_in(key(0), 2**31 - 1)`
        downwards, over which the final loss and `evaluate` are averaged, >= 1. Static.

    Returns:
      A `TrainResult` of arrays: scalars, and one element for each recorded step.

    Raises:
      ValueError: an argument is out of range, or a summary is unknown.
      TypeError: a static argument is not an integer; or `problem` does not return
        floating-point parameters, a floating-point scalar as loss and a dict of scalars
        as evaluation.

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
    """Returns the parts of a run: initial state, step function, result function."""
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
    for path, leaf in jax.tree.leaves_with_path(params):
        try:
            dtype: Any = jnp.asarray(leaf).dtype
        except TypeError:  # a function, as an Equinox module holds its activation
            dtype = getattr(leaf, "__name__", type(leaf).__name__)
        if isinstance(dtype, str) or not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"problem.init must return floating-point arrays, got {dtype} "
                f"at params{jax.tree_util.keystr(path)}."
            )
    return jax.tree.map(jnp.asarray, params)


def _loss_dtype(loss: Any) -> np.dtype[Any]:
    """Checks what a loss returns; returns the type in which losses are compared."""
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
    """The type itself if it is float32 or wider, else float32."""
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
    """Runs blocks of `every` steps and a shorter last one; records the first of each.

    The recorded step stands before the loop over the others, whose body then computes
    no metrics: selecting the record within one loop made a small problem twice as slow.
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
        # An accuracy keeps its value, near chance: +inf would be the best of all.
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
