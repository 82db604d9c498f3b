"""Summaries of the loss curve, computed during a run."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stabjax._types import Number

SUMMARIES = ("mean_loss", "convergence_score")
_CAP = 1e6  # upper bound on loss / initial loss in the convergence score
_TAIL = 20  # number of final steps whose mean decides whether a run converged


class Summary(NamedTuple):
    """A running reduction over the losses of all steps."""

    start: Callable[[Any], Any]  # dtype of the loss -> state
    update: Callable[[Any, jax.Array, jax.Array], Any]  # state, loss, step
    result: Callable[[Any, jax.Array], jax.Array]  # state, final loss
    is_loss: bool  # +inf for a diverged run


def summaries_of(
    names: Collection[str], target_loss: Number | None, steps: int
) -> dict[str, Summary]:
    """Returns the requested summaries, keyed by their names in the dataset."""
    known = dict(zip(SUMMARIES, (_mean_loss, _convergence_score), strict=True))
    found = {name: known[name](steps) for name in SUMMARIES if name in names}
    if target_loss is not None:
        found["target_at"] = _target_at(target_loss, steps)
    return found


def updated(
    summaries: Mapping[str, Summary],
    carried: Mapping[str, Any],
    loss: jax.Array,
    step: jax.Array,
) -> dict[str, Any]:
    """Updates the state of all summaries with the loss of one step."""
    return {
        name: summary.update(carried[name], loss, step)
        for name, summary in summaries.items()
    }


def _mean_loss(steps: int) -> Summary:
    """Computes the running mean of the loss."""
    del steps
    return Summary(
        start=lambda dtype: jnp.zeros((), dtype),
        update=lambda mean, loss, t: mean + (loss - mean) / (t + 1).astype(mean.dtype),
        result=lambda mean, final: mean,
        is_loss=True,
    )


def _target_at(target: Number, steps: int) -> Summary:
    """Finds the number of updates after which the loss first reached the target."""

    def earlier(first: jax.Array, loss: jax.Array, step: jax.Array | int) -> jax.Array:
        at = jnp.asarray(step, first.dtype)
        reached = loss <= jnp.asarray(target, loss.dtype)
        return jnp.minimum(first, jnp.where(reached, at, jnp.inf))

    return Summary(
        start=lambda dtype: jnp.full((), jnp.inf, jnp.float32),
        update=earlier,
        result=lambda first, final: earlier(first, final, steps),
        is_loss=True,
    )


class _Score(NamedTuple):
    first: jax.Array  # initial loss
    losses: jax.Array  # sum of the capped ratios loss / initial loss
    inverses: jax.Array  # sum of the inverse ratios
    tail: jax.Array  # sum of the ratios over the last steps


def _convergence_score(steps: int) -> Summary:
    """Computes the convergence score of Sohl-Dickstein (2024).

    Losses are divided by the initial loss and capped at 1e6. A run converged if the
    mean of its last 20 losses is below 1. The score is minus the sum of the losses of a
    converged run, and the sum of the inverse losses otherwise.
    """
    tail = min(_TAIL, steps)

    def update(score: _Score, loss: jax.Array, step: jax.Array) -> _Score:
        # d(1 / loss) is infinite at a loss of zero, and jnp.where would turn it into a
        # NaN gradient even if it selects the other branch.
        loss = jax.lax.stop_gradient(loss)
        finite = jnp.where(jnp.isfinite(loss), loss, jnp.asarray(_CAP, loss.dtype))
        first = jnp.where(step == 0, finite, score.first)
        loss = jnp.minimum(finite / first, jnp.asarray(_CAP, loss.dtype))
        return _Score(
            first,
            score.losses + loss,
            score.inverses + 1 / loss,
            score.tail + jnp.where(step >= steps - tail, loss, jnp.zeros_like(loss)),
        )

    return Summary(
        start=lambda dtype: _Score(*(jnp.zeros((), dtype) for _ in _Score._fields)),
        update=update,
        result=lambda score, final: jnp.where(
            score.tail < tail, -score.losses, score.inverses
        ),
        is_loss=False,
    )
