"""Loops over the steps of a run that also record metrics."""

import jax
import jax.numpy as jnp
from jax import lax

from stabjax._metrics import metrics
from stabjax._train.state import Record, State, Step


def recorded(step: Step, start: State, steps: int, every: int) -> tuple[State, Record]:
    """Runs the steps in blocks of `every` and records the first step of each block.

    The recorded step runs outside the inner loop, whose body then computes no metrics.
    Selecting the recorded steps inside a single loop made a small problem twice as
    slow.
    """

    def block(state: State, length: int) -> tuple[State, Record]:
        state, (loss, measured) = step(state)
        record = Record(loss, _together(metrics(state.opt_state), measured))
        state, _ = lax.scan(lambda s, _: (step(s)[0], None), state, length=length - 1)
        return state, record

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
