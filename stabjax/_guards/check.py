"""Raises on the host if a guard has met too many bad steps in a row."""

import jax
import numpy as np
import optax

from stabjax._arguments import as_integer
from stabjax._guards.skipped import check_accumulation
from stabjax._metrics import metrics
from stabjax._paths import leaf_name, leaf_paths

_STREAK = "/consecutive"


def check_guards(
    opt_state: optax.OptState,
    params: optax.Params | None = None,
    *,
    max_consecutive: int = 10,
) -> None:
    """Raises if a guard met more bad steps in a row than it should.

    Call it on the host every N steps: it waits for the values of the state. A callback
    inside a compiled program would have prevented its export.

    Args:
      opt_state: the state of an optimizer with guards at any depth, also one batched by
        `vmap`.
      params: parameters, or gradients, as the guard's `init` took them. With them the
        message names the parameter whose gradient was not finite, without them its
        position.
      max_consecutive: the number of bad steps in a row, skipped or not, that is
        accepted; >= 0. **Static.**

    Returns:
      None, if no guard met more.

    Raises:
      RuntimeError: a guard met more; the message says how many steps, why, and where.
      ValueError: a guard stands inside `optax.MultiSteps`, whose accumulated gradient
        keeps a NaN: every later update would be skipped.
      TypeError: the state is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> optimizer = stabjax.skip_if_nonfinite(optax.adam(0.1))
      >>> params = {"scale": jnp.array(1.0), "weight": jnp.array(1.0)}
      >>> grads = params | {"weight": jnp.array(jnp.nan)}
      >>> _, state = optimizer.update(grads, optimizer.init(params), params)
      >>> stabjax.check_guards(state)
      >>> stabjax.check_guards(state, params, max_consecutive=0)
      Traceback (most recent call last):
      RuntimeError: skip_if_nonfinite met 1 bad step in a row, where 0 are accepted
      (nonfinite_count 1, skip_count 1, skip_fraction 1). 'weight' was the first
      parameter whose gradient was not finite.
    """
    allowed = as_integer("max_consecutive", max_consecutive, ">= 0")
    check_accumulation(opt_state)
    found = metrics(opt_state)
    if any(isinstance(value, jax.core.Tracer) for value in found.values()):
        raise TypeError(
            "opt_state must hold concrete values, got tracers. Call check_guards "
            "outside of jit."
        )
    guards = [name.removesuffix(_STREAK) for name in found if name.endswith(_STREAK)]
    for guard in guards:
        streaks = np.asarray(found[guard + _STREAK])
        worst = np.unravel_index(np.argmax(streaks), streaks.shape)
        if streaks[worst] > allowed:
            own = {
                name.removeprefix(f"{guard}/"): np.asarray(value)[worst]
                for name, value in found.items()
                if name.startswith(f"{guard}/")
            }
            raise RuntimeError(_message(guard, own, params, allowed))


def _message(
    guard: str, own: dict[str, np.generic], params: optax.Params | None, allowed: int
) -> str:
    """Says what the metrics of a guard mean."""
    counts = [
        f"{metric} {number}"
        for metric, number in own.items()
        if metric.endswith("_count")
    ]
    streak, leaf = int(own["consecutive"]), int(own["nonfinite_leaf"])
    text = (
        f"{guard} met {streak} bad step{'s' * (streak != 1)} in a row, where {allowed} "
        f"are accepted ({', '.join(counts)}, skip_fraction {own['skip_fraction']:.3g})."
    )
    if leaf < 0:
        return text
    paths = leaf_paths(params)
    first = repr(leaf_name(paths[leaf])) if leaf < len(paths) else f"Number {leaf}"
    return f"{text} {first} was the first parameter whose gradient was not finite."
