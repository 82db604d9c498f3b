"""Equinox modules as two pure functions."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from stabjax.problems.model import Model

_AXIS = "batch"  # the name that Equinox's own pages give to the axis of the examples


def equinox_model(make: Callable[[jax.Array], Any], inputs: Any) -> Model:
    """Returns the model of an Equinox module, or of a pair of module and state.

    The module is called with one example. It is mapped over the batch under the axis
    name "batch", which is that of `eqx.nn.BatchNorm(axis_name="batch")`.
    """
    del inputs
    with jax.ensure_compile_time_eval():
        made = make(jax.random.key(0))
    stateful = isinstance(made, tuple) and len(made) == 2
    module = made[0] if stateful else made
    if not isinstance(module, eqx.Module):
        raise TypeError(
            f"module must make an Equinox module, or a module and its eqx.nn.State, "
            f"from its parameter 'key', got {type(module).__name__} from it. A "
            f"function that makes an NNX module must not have a parameter 'key'."
        )
    _, constants = eqx.partition(module, eqx.is_inexact_array)
    names = inspect.signature(type(module).__call__).parameters
    if "state" in names and not stateful:
        raise TypeError(
            f"module must make a module and its state, since the call of "
            f"{type(module).__name__} has a parameter 'state'. Use "
            f"lambda key: eqx.nn.make_with_state({type(module).__name__})(key=key)."
        )

    def init(key: jax.Array) -> tuple[Any, Any]:
        found = make(key)
        module, state = found if stateful else (found, ())
        return eqx.filter(module, eqx.is_inexact_array), state

    def apply(
        params: Any, state: Any, x: Any, key: jax.Array | None, train: bool
    ) -> tuple[Any, Any]:
        module = eqx.nn.inference_mode(eqx.combine(params, constants), not train)
        # An Equinox state may be used once; the caller keeps the one it has.
        state = jax.tree.map(jnp.asarray, state)
        size = len(jax.tree.leaves(x)[0])
        keys = jax.random.split(jax.random.key(0) if key is None else key, size)

        def one(x: Any, state: Any, key: jax.Array) -> tuple[Any, Any]:
            more = {"key": key} if "key" in names and train else {}
            if not stateful:
                return module(x, **more), ()
            outputs, new = module(x, state, **more)
            return outputs, new

        mapped = jax.vmap(one, (0, None, 0), (0, None), axis_name=_AXIS)
        outputs, new = mapped(x, state, keys)
        return outputs, (new if train else state)

    return Model(init, apply, stateful)
