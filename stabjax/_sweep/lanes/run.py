"""A run in parts, as flat programs, from one trace of the user's functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from stabjax._sweep.axes import RESULTS
from stabjax._sweep.lanes.equations import Flat, flat
from stabjax._train.state import Training
from stabjax._train.stopping import any_run, is_settled

_BLOCKS = 32  # maximum number of checks whether a run goes on

_Variables = dict[str, jax.Array]
_Arrays = list[jax.Array]
# State, and the constants of the loop and of the end, that a trial begins with.
Begun = tuple[_Arrays, _Arrays, _Arrays]


class Parts(NamedTuple):
    """The programs of a trial; a constant is None where it is an output of `Begun`."""

    loop: core.Jaxpr
    loop_constants: list[Any]
    end: core.Jaxpr
    end_constants: list[Any]
    variables: Any  # the tree of the outputs of `end`


class Run(NamedTuple):
    """A run as programs of flat lists of arrays."""

    names: dict[str, jax.ShapeDtypeStruct]  # of the inputs
    begin: Flat  # inputs -> state, constants of the loop, constants of the end
    loop: Flat  # constants, state -> state
    end: Flat  # constants, state -> variables
    sizes: tuple[int, int, int]  # of the outputs of `begin`
    variables: Any  # the tree of the outputs of `end`


def trained(
    training: Training, variables: Callable[[Any], _Variables], steps: int
) -> tuple[_Variables, Begun, Parts]:
    """Trains a trial and also returns its parts for `run_of`.

    The user's functions are traced only once for both purposes.
    """
    start, step, result, *_ = training
    leaves, tree = jax.tree.flatten(start)
    leaves = [*map(jnp.asarray, leaves)]

    def advanced(*state: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(step(jax.tree.unflatten(tree, state))[0])

    def ended(*state: jax.Array) -> _Variables:
        return variables(result(jax.tree.unflatten(tree, state), steps))

    loop = jax.make_jaxpr(advanced)(*leaves)
    end, shapes = jax.make_jaxpr(ended, return_shape=True)(*leaves)
    advance, finish = map(core.jaxpr_as_fun, (loop, end))

    def running(state: _Arrays) -> jax.Array:
        evaluated = not {*shapes} <= {*RESULTS}
        return ~is_settled(jax.tree.unflatten(tree, state), evaluated)

    # A convergence score counts the losses of diverged runs, too.
    blocks = 1 if "convergence_score" in shapes else _blocks(steps)
    state = _looped(advance, running, leaves, (blocks, steps // blocks))
    names = jax.tree.structure(shapes)
    of_loop, of_end = ([*filter(_is_traced, c.consts)] for c in (loop, end))
    known = [[*map(_constant, c.consts)] for c in (loop, end)]
    parts = Parts(loop.jaxpr, known[0], end.jaxpr, known[1], names)
    results: _Variables = jax.tree.unflatten(names, finish(*state))
    return results, (leaves, of_loop, of_end), parts


def _blocks(steps: int) -> int:
    """Returns into how many equal blocks of a few steps a run is divided."""
    return max(n for n in range(1, _BLOCKS + 1) if steps % n == 0 and n * n <= steps)


def _looped(
    advance: Callable[..., _Arrays],
    running: Callable[[_Arrays], jax.Array],
    start: _Arrays,
    lengths: tuple[int, int],
) -> _Arrays:
    """Repeats a step; under `vmap`, ends after the block in which all runs settle.

    A condition at every step would make a GPU wait for the host at every step.
    """
    blocks, length = lengths

    def block(state: _Arrays) -> _Arrays:
        return lax.scan(lambda s, _: (advance(*s), None), state, length=length)[0]

    if blocks == 1:
        return block(start)

    def body(given: tuple[jax.Array, jax.Array, _Arrays]) -> Any:
        state = block(given[2])
        return given[0] + 1, any_run(running(state)), state

    _, _, state = lax.while_loop(
        lambda given: (given[0] < blocks) & given[1],
        body,
        (jnp.asarray(0, jnp.int32), jnp.asarray(True), start),
    )
    return state


def run_of(
    values: Mapping[str, jax.ShapeDtypeStruct], traced: jax.stages.Traced, parts: Parts
) -> Run:
    """Returns the run of a traced trial.

    Args:
      values: the inputs of the trial.
      traced: a traced function of `values` whose second output is the second result of
        `trained`.
      parts: the third result of `trained`.
    """
    begun = traced.out_info[-1]
    sizes = len(begun[0]), len(begun[1]), len(begun[2])
    whole = traced.jaxpr
    first = len(whole.jaxpr.outvars) - sum(sizes)
    return Run(
        {name: values[name] for name in sorted(values)},
        flat(whole.jaxpr, whole.consts, first=first),
        flat(parts.loop, parts.loop_constants),
        flat(parts.end, parts.end_constants),
        sizes,
        parts.variables,
    )


def _is_traced(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer)


def _constant(value: Any) -> Any:
    return None if _is_traced(value) else value
