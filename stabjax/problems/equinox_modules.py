"""Converting Equinox modules to pure functions."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from stabjax.problems.model import Model

_AXIS = "batch"  # the axis name used in the Equinox documentation


def equinox_model(make: Callable[[jax.Array], Any], inputs: Any) -> Model:
    """Returns the model of an Equinox module, or of a pair of a module and its state.

    The module is called with a single example and vectorized with `jax.vmap`. The axis
    name is "batch", as in `eqx.nn.BatchNorm(axis_name="batch")`.
    """
    del inputs
    with jax.ensure_compile_time_eval():
        made = make(jax.random.key(0))
    stateful = isinstance(made, tuple) and len(made) == 2
    module = made[0] if stateful else made
    if not isinstance(module, eqx.Module):
        raise TypeError(
            f"module must return an Equinox module, or a module and its eqx.nn.State, "
            f"because it has a parameter 'key', got {type(module).__name__}. A "
            f"function that returns an NNX module must not have a parameter 'key'."
        )
    _, constants = eqx.partition(module, eqx.is_inexact_array)
    names = inspect.signature(type(module).__call__).parameters
    if "state" in names and not stateful:
        raise TypeError(
            f"module must return a module and its state because the call of "
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
        # An Equinox state can be used only once, so the state of the caller is copied.
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
