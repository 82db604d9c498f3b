"""Whether a guard has been skipping steps, and why: for the host."""

from typing import Any

import jax
import numpy as np
import optax

from stabjax._metrics import leaf_name, leaf_paths, metrics

_STREAK = "/consecutive"


def check(
    opt_state: optax.OptState,
    params: optax.Params | None = None,
    *,
    max_consecutive: int = 10,
) -> None:
    """Raises if a guard met more bad steps in a row than it should.

    To be called on the host, every so many steps: it waits for the state's values.
    Nothing calls back from inside of a compiled program, which could not be exported.

    Args:
      opt_state: the state of an optimizer with guards in it, at any depth, with the
        axes of a ``vmap`` or without.
      params: parameters, or gradients, as the guard's ``init`` took them; with them the
        message has the path of the leaf that was not finite, and else its position.
      max_consecutive: the bad steps in a row that are still fine, skipped or passed.

    Returns:
      None, if no guard met more.

    Raises:
      RuntimeError: if one did; the message says how many steps, why, and where.
      TypeError: if the state is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> optimizer = stabjax.skip_if_nonfinite(optax.adam(0.1))
      >>> params = {"scale": jnp.array(1.0), "weight": jnp.array(1.0)}
      >>> grads = params | {"weight": jnp.array(jnp.nan)}
      >>> _, state = optimizer.update(grads, optimizer.init(params), params)
      >>> stabjax.check(state)
      >>> stabjax.check(state, params, max_consecutive=0)
      Traceback (most recent call last):
      RuntimeError: skip_if_nonfinite met 1 bad step in a row, where 0 are fine
      (nonfinite_count 1, skip_count 1, skip_fraction 1); 'weight' was the first leaf
      that was not finite

    Source: this library's.
    """
    found = metrics(opt_state)
    if any(isinstance(value, jax.core.Tracer) for value in found.values()):
        raise TypeError("check looks at values: call it outside of jit, on the host")
    guards = [name.removesuffix(_STREAK) for name in found if name.endswith(_STREAK)]
    for guard in guards:
        streaks = np.asarray(found[guard + _STREAK])
        worst = np.unravel_index(np.argmax(streaks), streaks.shape)
        if streaks[worst] > max_consecutive:
            own = {
                name.removeprefix(f"{guard}/"): np.asarray(value)[worst]
                for name, value in found.items()
                if name.startswith(f"{guard}/")
            }
            raise RuntimeError(_told(guard, own, params, max_consecutive))


def _told(
    guard: str, own: dict[str, Any], params: optax.Params | None, allowed: int
) -> str:
    """What a guard's metrics say, in words."""
    counts = [
        f"{what} {number}" for what, number in own.items() if what.endswith("_count")
    ]
    streak = int(own["consecutive"])
    text = (
        f"{guard} met {streak} bad step{'s' * (streak != 1)} in a row, where {allowed} "
        f"are fine ({', '.join(counts)}, skip_fraction {own['skip_fraction']:.3g})"
    )
    leaf = int(own["nonfinite_leaf"])
    if leaf < 0:
        return text
    paths = leaf_paths(params)
    if leaf >= len(paths):
        return f"{text}; number {leaf} of the leaves was the first that was not finite"
    return f"{text}; {leaf_name(paths[leaf])!r} was the first leaf that was not finite"
