"""A single training run as a pure function."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stabjax._guards.skipped import selected, skipped
from stabjax._train.arguments import (
    check_lengths,
    check_rules,
    steps_of,
    steps_per_epoch,
)
from stabjax._train.divergence import DIVERGENCE_FACTOR, bound_of, is_stable
from stabjax._train.loops import looped
from stabjax._train.normal_form import NormalForm, normal_form, wide
from stabjax._train.outcome import evaluation_of, outcome
from stabjax._train.problem import Problem
from stabjax._train.state import Record, Rules, State, Step, Training, TrainResult
from stabjax._train.stopping import EarlyStopping, checked_rule, watch_of
from stabjax._train.summaries import summaries_of, updated
from stabjax._types import Number


def train(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    record_every: int | None = None,
    evaluate_every: int | Literal["epoch"] | None = None,
    stop: EarlyStopping | Callable[..., object] | None = None,
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
        `evaluate(params, key) -> dict of scalars`. `stabjax.problems.Problem` describes
        problems with state, batches and metrics. The final loss and `evaluate` use the
        same evaluation key in every run, `fold_in(key(0), 2**31 - 1)`.
      optimizer: an Optax gradient transformation.
      key: the random key of the run, such as `jax.random.key(0)`.
      steps: number of updates, >= 1. **Static.**
      epochs: number of passes over the data, >= 1, instead of `steps`. The problem must
        have `metadata["steps_per_epoch"]`, which `supervised` sets. **Static.**
      record_every: records the loss at steps 0, record_every, 2 * record_every, ... and
        the optimizer metrics after each of these steps, in [1, steps]. Compilation is
        fastest if it divides `steps`. By default, nothing is recorded, and memory use
        does not grow with `steps`. **Static.**
      evaluate_every: evaluates the problem after every N updates, in [1, steps] and a
        multiple of `record_every`, or after every `"epoch"`. The results are in
        `curves`. **Static.**
      stop: a rule that stops the run early, such as
        `EarlyStopping("test_loss", patience=3)`, or a function of entries of
        `problem.evaluate` and of `step`, by name, that returns whether to stop, such as
        `lambda test_loss, step: (step >= 500) & (test_loss > 2.0)`. After that, the
        parameters and all other states are unchanged, and recorded values are NaN. It
        needs `evaluate_every`. It supports `jax.jvp`, but not `jax.grad`. **Static.**
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
    if evaluate_every == "epoch":
        evaluate_every = steps_per_epoch(problem)
    steps = steps_of(problem, steps, epochs)
    lengths, evaluations = check_lengths(
        steps, record_every, evaluate_every, evaluations
    )
    check_rules(divergence_factor, summaries, target_loss)
    steps, record_every, every = lengths
    rule = checked_rule(stop, every)
    watched = summaries_of(summaries, target_loss, steps)
    rules = Rules(divergence_factor, watched, evaluations)
    parts = training(problem, optimizer, key, rules)
    watch = rule and watch_of(rule, problem, steps)
    state, record, curves, seen = looped(parts, lengths, watch)
    result = parts.result(state, steps, seen)
    if every:
        at = jnp.arange(every, steps + 1, every, dtype=jnp.int32)
        lost = at > result.diverged_at
        curves = {
            name: jnp.where(lost & ~jnp.isfinite(values), jnp.inf, values)
            for name, values in curves.items()
        }
        result = result._replace(curves=curves)
    if record is None:
        return result
    at = jnp.arange(0, steps, record_every, dtype=jnp.int32)
    trace = jnp.where(at >= result.diverged_at, jnp.inf, record.loss)
    return result._replace(loss=trace, metrics=record.metrics)


def training(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    rules: Rules,
    products: bool = True,
) -> Training:
    """Returns the building blocks of a run.

    `products` replaces convolutions with matrix products on CPUs.
    """
    init_key, step_key = jax.random.split(_typed(key))
    form = normal_form(problem, products)
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
        partial(outcome, form, rules),
        lambda state: evaluation_of(form, state, rules.evaluations),
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
            # Not jnp.minimum, which takes several instructions to keep NaN. A run with
            # NaN diverges, and its best loss is then inf.
            best_loss=jnp.where(value < state.best_loss, value, state.best_loss),
            good_steps=state.good_steps + stable.astype(jnp.int32),
            bound=bound,
            summaries=updated(rules.summaries, state.summaries, value, state.step),
        ), Record(value, measured)

    return step
