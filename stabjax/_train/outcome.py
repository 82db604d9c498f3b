"""The result of a run, computed from its last state."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from stabjax._arguments import check_choice
from stabjax._train.divergence import is_stable
from stabjax._train.normal_form import Inputs, NormalForm
from stabjax._train.state import Rules, State, TrainResult
from stabjax._train.stopping import Watched

_T = TypeVar("_T")
_EVALUATION = 2**31 - 1  # a large number, because users fold in small ones


def outcome(
    form: NormalForm,
    rules: Rules,
    state: State,
    steps: Any,
    watched: Watched | None = None,
) -> TrainResult:
    """Returns the result of a run from its state after some steps."""
    final, evaluation = _final(form, state, rules.evaluations, steps)
    final = final.astype(state.best_loss.dtype)
    until = watched.stopped_at if watched else steps
    lost_last = (state.good_steps == until) & ~is_stable(final, state.bound)
    diverged_at = state.good_steps - lost_last.astype(jnp.int32)
    diverged = diverged_at < until
    if watched:
        diverged_at = jnp.where(diverged, diverged_at, steps)

    best = watched.best if watched else None

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
        state=state.model_state,
        stopped_at=watched.stopped_at if watched else None,
        best=best and best._replace(value=evaluated(best.value)),
    )


def _final(
    form: NormalForm, state: State, evaluations: int, steps: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the loss and the evaluation, averaged over the evaluation keys."""

    def at(key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        inputs = form.final_inputs(key, steps)
        given = state.params, state.model_state, inputs
        evaluation = form.evaluate(*given)
        if form.final_loss is None:
            return form.loss(*given)[0], evaluation
        if not evaluation:
            raise ValueError(
                f'metadata["final_loss"] must name an entry of problem.evaluate, which '
                f"is not given, got {form.final_loss!r}."
            )
        check_choice('metadata["final_loss"]', form.final_loss, [*evaluation])
        return evaluation[form.final_loss], evaluation

    return _averaged(at, evaluations)


def evaluation_of(
    form: NormalForm, state: State, evaluations: int
) -> dict[str, jax.Array]:
    """Returns the values of `problem.evaluate`, averaged over the evaluation keys."""

    def at(key: jax.Array) -> dict[str, jax.Array]:
        inputs = Inputs(key, state.step, ())
        return form.evaluate(state.params, state.model_state, inputs)

    return _averaged(at, evaluations)


def _averaged(at: Callable[[jax.Array], _T], evaluations: int) -> _T:
    first = jax.random.key(0)
    if evaluations == 1:
        return at(jax.random.fold_in(first, _EVALUATION))
    found = lax.map(
        lambda number: at(jax.random.fold_in(first, number)),
        _EVALUATION - jnp.arange(evaluations, dtype=jnp.int32),
    )
    mean: _T = jax.tree.map(lambda values: values.mean(axis=0), found)
    return mean
