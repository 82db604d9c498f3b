"""One run as a pure function: a problem, an optimizer and a key in, arrays out."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from stabjax._guards.skipped import selected, skipped
from stabjax._train.arguments import check_lengths, check_rules
from stabjax._train.divergence import DIVERGENCE_FACTOR, bound_of, is_stable
from stabjax._train.loops import recorded
from stabjax._train.normal_form import NormalForm, normal_form, wide
from stabjax._train.outcome import outcome
from stabjax._train.problem import Problem
from stabjax._train.state import Record, Rules, State, Step, Training, TrainResult
from stabjax._train.summaries import summaries_of, updated
from stabjax._types import Number


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
        `evaluate(params, key) -> dict of scalars`. Problems with state, with metrics or
        with a batch function are described there. The final loss and `evaluate` use the
        same evaluation key in every run: `fold_in(key(0), 2**31 - 1)`.
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
    state, (trace, curves) = recorded(step, start, steps, record_every)
    result = result_of(state, steps)
    at = jnp.arange(0, steps, record_every, dtype=jnp.int32)
    trace = jnp.where(at >= result.diverged_at, jnp.inf, trace)
    return result._replace(loss=trace, metrics=curves)


def training(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    rules: Rules,
) -> Training:
    """Returns the parts of a run: initial state, step function, result function."""
    init_key, step_key = jax.random.split(_typed(key))
    form = normal_form(problem)
    params, model_state = form.init(init_key)
    zero = jnp.asarray(0, jnp.int32)
    inputs = jax.eval_shape(form.inputs, step_key, zero)
    dtype = _loss_dtype(jax.eval_shape(form.loss, params, model_state, inputs)[0])
    unbounded = jnp.asarray(jnp.inf, dtype)
    start = State(
        step=zero,
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
        best_loss=unbounded,
        good_steps=zero,
        bound=unbounded,
        summaries={name: s.start(dtype) for name, s in rules.summaries.items()},
    )
    return Training(
        start,
        _stepper(form, optimizer, step_key, rules),
        lambda state, steps: outcome(form, rules, state, steps),
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
    return wide(loss.dtype)


def _stepper(
    form: NormalForm,
    optimizer: optax.GradientTransformation,
    step_key: jax.Array,
    rules: Rules,
) -> Step:
    tx = optax.with_extra_args_support(optimizer)

    def step(state: State) -> tuple[State, Record]:
        inputs = form.inputs(step_key, state.step)
        (value, (model_state, measured)), grads = jax.value_and_grad(
            form.loss, has_aux=True
        )(state.params, state.model_state, inputs)
        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, value=value, grad=grads
        )
        flag = skipped(opt_state) if jax.tree.leaves(model_state) else None
        if flag is not None:
            model_state = selected(flag, state.model_state, model_state)
        value = value.astype(state.best_loss.dtype)
        bound = jnp.where(
            state.step == 0, bound_of(value, rules.divergence_factor), state.bound
        )
        stable = is_stable(value, bound) & (state.good_steps == state.step)
        return State(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state=model_state,
            opt_state=opt_state,
            best_loss=jnp.minimum(state.best_loss, value),
            good_steps=state.good_steps + stable.astype(jnp.int32),
            bound=bound,
            summaries=updated(rules.summaries, state.summaries, value, state.step),
        ), Record(value, measured)

    return step
