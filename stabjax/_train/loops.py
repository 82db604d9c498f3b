"""Loops over the steps of a run that record and evaluate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from stabjax._guards.skipped import selected
from stabjax._metrics import metrics
from stabjax._train.state import Record, State, Step, Training
from stabjax._train.stopping import (
    Watch,
    Watched,
    any_run,
    is_frozen,
    missing,
    without,
)

_Values = dict[str, jax.Array]
# A function of a state that returns the next state, the evaluation and the record.
_Block = Callable[[State], tuple[State, tuple[_Values, Record | None]]]


class Lengths(NamedTuple):
    """The number of steps, and how often a run is recorded and evaluated."""

    steps: int
    record_every: int | None
    evaluate_every: int | None


class Looped(NamedTuple):
    """A run after its last step."""

    state: State
    record: Record | None
    curves: _Values
    watched: Watched | None


def looped(training: Training, lengths: Lengths, watch: Watch | None) -> Looped:
    """Runs all steps, with evaluations and early stopping."""
    steps, record_every, every = lengths

    def run(state: State, length: int) -> tuple[State, Record | None]:
        if record_every:
            return _recorded(training.step, state, length, record_every)
        return _repeated(training.step, state, length), None

    if every is None:
        return Looped(*run(training.start, steps), {}, None)

    def block(state: State) -> tuple[State, tuple[_Values, Record | None]]:
        state, record = run(state, every)
        return state, (training.evaluate(state), record)

    state, watched, count = training.start, None, steps // every
    if watch:
        state, watched, outputs = _until_frozen(block, state, watch, count)
    else:
        state, outputs = lax.scan(lambda s, _: block(s), state, length=count)
    curves, record = outputs
    record = jax.tree.map(jnp.ravel, record)
    if rest := steps % every:
        last, more = run(state, rest)
        if watched:
            frozen = is_frozen(watched, state)
            last, more = selected(frozen, state, last), without(frozen, more)
        state, record = last, jax.tree.map(_joined, record, more)
    return Looped(state, record, curves, watched)


def _until_frozen(
    block: _Block, start: State, watch: Watch, count: int
) -> tuple[State, Watched, Any]:
    """Runs up to `count` blocks, and ends when all runs have stopped or diverged.

    A frozen run keeps its state from block to block, and its outputs are NaN.
    """
    _, shapes = jax.eval_shape(block, start)
    outputs = jax.tree.map(
        lambda x: jnp.full((count, *x.shape), missing(x.dtype)), shapes
    )

    def body(given: Any) -> Any:
        number, _, state, watched, found = given
        frozen = is_frozen(watched, state)
        new, out = block(state)
        seen = watch.update(watched, out[0], new)
        # All runs share the counter, and it stays the same for all of them.
        kept = selected(frozen, state, new)._replace(step=new.step)
        watched = selected(frozen, watched, seen)
        found = jax.tree.map(
            lambda all_, one: lax.dynamic_update_index_in_dim(all_, one, number, 0),
            found,
            without(frozen, out),
        )
        running = any_run(~is_frozen(watched, kept))
        return number + 1, running, kept, watched, found

    given = jnp.asarray(0, jnp.int32), jnp.asarray(True)
    _, _, state, watched, found = lax.while_loop(
        lambda given: (given[0] < count) & given[1],
        body,
        (*given, start, watch.start(start, shapes[0]), outputs),
    )
    return state, watched, found


def _joined(first: jax.Array, rest: jax.Array) -> jax.Array:
    return jnp.concatenate([first, rest])


def _repeated(step: Step, state: State, length: int) -> State:
    return lax.scan(lambda s, _: (step(s)[0], None), state, length=length)[0]


def _recorded(step: Step, start: State, steps: int, every: int) -> tuple[State, Record]:
    """Runs the steps in blocks of `every` and records the first step of each block.

    The recorded step runs outside the inner loop, whose body then computes no metrics.
    Selecting the recorded steps inside a single loop made a small problem twice as
    slow.
    """

    def block(state: State, length: int) -> tuple[State, Record]:
        state, (loss, measured) = step(state)
        record = Record(loss, _together(metrics(state.opt_state), measured))
        return _repeated(step, state, length - 1), record

    state, records = lax.scan(
        lambda state, _: block(state, every), start, length=steps // every
    )
    if rest := steps % every:
        state, last = block(state, rest)
        records = jax.tree.map(lambda r, x: jnp.append(r, x[None]), records, last)
    return state, records


def _together(
    of_optimizer: dict[str, jax.Array], of_loss: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    for name in of_optimizer.keys() & of_loss.keys():
        raise ValueError(
            f"two metrics are called {name!r}: rename the one that problem.loss "
            f"returns, or the optimizer's."
        )
    return {**of_optimizer, **of_loss}
