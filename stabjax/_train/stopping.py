"""Early stopping."""

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from stabjax._arguments import as_integer, check, check_choice
from stabjax._branches import explained_branch
from stabjax._guards.skipped import selected
from stabjax._train.state import BestEvaluation, State

_T = TypeVar("_T")


class EarlyStopping(NamedTuple):
    """A rule that stops a run when a measure no longer improves.

    The rule is applied after every evaluation. An evaluation improves the measure if it
    is better than the best one so far by more than `min_delta`. The run stops after
    `patience` evaluations in a row without an improvement, at an evaluation that
    reaches `target`, or if `when` returns True. Diverged runs also stop.

    Attributes:
      variable: the name of an entry of `problem.evaluate`, such as `"test_loss"`.
      patience: number of evaluations without improvement, >= 1, or inf.
      min_delta: smallest change that counts as an improvement, >= 0.
      target: a value at which the run stops, or None.
      maximize: whether larger values are better. By default, entries listed in
        `metadata["maximize"]` and names that end in `accuracy` are maximized, and names
        that end in `loss` or `error` are minimized.
      when: a function of entries of `problem.evaluate` and of `step`, the number of
        updates, which receives them by name and returns whether to stop, or None. It
        is traced, so it combines conditions with `&` and `|`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, stabjax
      >>> problem = stabjax.problems.Problem(
      ...     init=lambda key: jnp.ones(2),
      ...     loss=lambda w: jnp.sum(w**2),
      ...     evaluate=lambda w: {"test_loss": jnp.abs(w[0] - 0.5)},
      ... )
      >>> run = stabjax.train(
      ...     problem, optax.sgd(0.01), jax.random.key(0), steps=200, evaluate_every=10,
      ...     stop=stabjax.EarlyStopping("test_loss", patience=2),
      ... )
      >>> int(run.stopped_at), int(run.best.at)
      (50, 30)
    """

    variable: str
    patience: float = 3
    min_delta: float = 0.0
    target: float | None = None
    maximize: bool | None = None
    when: Callable[..., object] | None = None


# The variable of a rule that consists of a function alone.
_NO_VARIABLE = ""


def checked_rule(stop: Any, evaluate_every: int | None) -> EarlyStopping | None:
    """Validates a rule or a function that returns whether to stop."""
    if stop is None:
        return None
    if evaluate_every is None:
        raise ValueError("evaluate_every must be given with stop, got None.")
    if callable(stop):
        return function_alone(stop)
    if not isinstance(stop, EarlyStopping):
        raise TypeError(
            f"stop must be a rule such as stabjax.EarlyStopping('test_loss', "
            f"patience=3), or a function such as lambda test_loss: test_loss > 9, got "
            f"{stop!r}."
        )
    rule = stop
    if rule.when is not None and not callable(rule.when):
        raise TypeError(f"when must be a function, got {rule.when!r}.")
    if rule.patience != math.inf:
        as_integer("patience", rule.patience)
    check("min_delta", rule.min_delta, ">= 0")
    if rule.target is not None:
        check("target", rule.target, "in (-inf, inf)")
    return rule


def function_alone(when: Callable[..., object]) -> EarlyStopping:
    """Returns a rule that monitors no variable."""
    return EarlyStopping(_NO_VARIABLE, math.inf, when=when)


def is_maximized(variable: str, declared: Collection[str] = ()) -> bool | None:
    """Returns whether larger values of a variable are better, or None if unknown."""
    if variable in declared or variable.endswith("accuracy"):
        return True
    return False if variable.endswith(("loss", "error")) else None


class Watched(NamedTuple):
    """The state of early stopping."""

    best: BestEvaluation | None  # None if no variable is monitored
    waited: jax.Array  # evaluations since the last improvement
    stopped_at: jax.Array  # number of updates, or the number of steps


class Watch(NamedTuple):
    """A rule with the direction in which its variable improves."""

    rule: EarlyStopping
    maximize: bool  # irrelevant without a variable
    steps: int

    def start(self, state: State, values: Mapping[str, Any]) -> Watched:
        """Returns the initial state, given the shapes of an evaluation."""
        zero = jnp.asarray(0, jnp.int32)
        best = None
        if (name := self.rule.variable) != _NO_VARIABLE:
            check_choice("the variable of stop", name, sorted(values))
            worst = jnp.asarray(-jnp.inf if self.maximize else jnp.inf)
            worst = worst.astype(values[name].dtype)
            best = BestEvaluation(worst, zero, state.params, state.model_state)
        return Watched(best, zero, jnp.asarray(self.steps, jnp.int32))

    def update(
        self, watched: Watched, values: Mapping[str, jax.Array], state: State
    ) -> Watched:
        """Returns the state after one more evaluation."""
        best, waited, stops = watched.best, watched.waited, jnp.asarray(False)
        if best is not None:
            best, better = self._improved(best, values, state)
            waited = jnp.where(better, jnp.zeros_like(waited), waited + 1)
            stops = self._is_done(values, waited)
        if self.rule.when is not None:
            stops |= _answer(self.rule.when, {**values, "step": state.step})
        at = jnp.where(stops, state.step, jnp.asarray(self.steps, jnp.int32))
        return Watched(best, waited, at)

    def _improved(
        self, best: BestEvaluation, values: Mapping[str, jax.Array], state: State
    ) -> tuple[BestEvaluation, jax.Array]:
        """Returns the best evaluation so far and whether it is the latest one."""
        value, sign = values[self.rule.variable], -1 if self.maximize else 1
        least = jnp.asarray(self.rule.min_delta, value.dtype)
        better = sign * value < sign * best.value - least
        now = BestEvaluation(value, state.step, state.params, state.model_state)
        return selected(better, now, best), better

    def _is_done(self, values: Mapping[str, jax.Array], waited: jax.Array) -> jax.Array:
        """Returns whether the patience is exhausted or the target is reached."""
        done: jax.Array = waited.astype(jnp.float32) >= self.rule.patience
        if self.rule.target is not None:
            value, sign = values[self.rule.variable], -1 if self.maximize else 1
            done |= sign * value <= sign * jnp.asarray(self.rule.target, value.dtype)
        return done


def _answer(when: Callable[..., object], values: Mapping[str, jax.Array]) -> jax.Array:
    """Calls the function of a rule with the values that it names."""
    parameters = inspect.signature(when).parameters.values()
    unknown = [
        str(p)
        for p in parameters
        if p.name not in values
        and (p.default is p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    ]
    if unknown:
        raise TypeError(
            f"the function of stop must name its parameters from "
            f"{', '.join(sorted(values))}, got {', '.join(unknown)}."
        )
    known = [p for p in parameters if p.name in values]
    by_place = [values[p.name] for p in known if p.kind == p.POSITIONAL_ONLY]
    by_name = {p.name: values[p.name] for p in known if p.kind != p.POSITIONAL_ONLY}
    with explained_branch("the function of stop"):
        found: Any = when(*by_place, **by_name)
    shape, dtype = np.shape(found), getattr(found, "dtype", type(found))
    if shape != () or dtype not in (bool, np.bool_):
        name = getattr(dtype, "name", getattr(dtype, "__name__", dtype))
        raise TypeError(
            f"the function of stop must return a boolean scalar, got {name} of shape "
            f"{shape}."
        )
    return jnp.asarray(found)


def watch_of(rule: EarlyStopping, problem: Any, steps: int) -> Watch:
    """Returns the rule with the direction of improvement for the problem."""
    maximize = rule.maximize
    if rule.variable == _NO_VARIABLE:
        maximize = False
    if maximize is None:
        declared = getattr(problem, "metadata", {}).get("maximize", ())
        maximize = is_maximized(rule.variable, declared)
    if maximize is None:
        raise ValueError(
            f"maximize must be given to EarlyStopping because the problem does not "
            f"specify whether larger values of {rule.variable!r} are better, got None."
        )
    return Watch(rule, maximize, steps)


def is_frozen(watched: Watched, state: State) -> jax.Array:
    """Returns whether a run has stopped or diverged."""
    return (watched.stopped_at <= state.step) | (state.good_steps < state.step)


def is_settled(state: State, evaluated: bool) -> jax.Array:
    """Returns whether further steps cannot change the results of a run.

    The losses of a diverged run are +inf, whatever follows. Its evaluation is that of
    the last step, which no longer changes once all parameters are NaN.
    """
    settled = state.good_steps < state.step
    if evaluated:
        for leaf in jax.tree.leaves((state.params, state.model_state)):
            is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
            settled &= jnp.isnan(leaf).all() if is_float else False
    return settled


def without(frozen: jax.Array, tree: _T) -> _T:
    """Returns the outputs of a run, with NaN where it is frozen."""

    def blank(leaf: jax.Array) -> jax.Array:
        return jnp.where(frozen, missing(leaf.dtype), leaf)

    blanked: _T = jax.tree.map(blank, tree)
    return blanked


def missing(dtype: Any) -> jax.Array:
    """Returns NaN, or 0 for dtypes without NaN."""
    return jnp.asarray(jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0, dtype)


@custom_vmap
def any_run(running: jax.Array) -> jax.Array:
    """Returns whether a run continues or, under `vmap`, whether any run continues.

    The result is not batched. A loop that depends on it can therefore keep its counter,
    keys and minibatches unbatched.
    """
    return running


@any_run.def_vmap
def _any_of_batch(
    size: int, batched: list[bool], running: jax.Array
) -> tuple[jax.Array, bool]:
    del size
    return any_run(running.any(axis=0) if batched[0] else running), False
