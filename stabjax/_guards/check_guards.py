"""Host-side check that raises after too many consecutive bad steps."""

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
    """Raises an error if a guard has seen too many consecutive bad steps.

    Call this function on the host every N steps. It blocks until the optimizer state is
    available. It is separate from the guards because programs with host callbacks
    cannot be exported.

    Args:
      opt_state: an optimizer state that contains guards at any depth. It may be batched
        by `vmap`.
      params: parameters or gradients, used to name the parameter with a non-finite
        gradient in the error message. If None, the message reports its index.
      max_consecutive: maximum number of consecutive bad steps to allow, whether skipped
        or not, >= 0. **Static.**

    Returns:
      None.

    Raises:
      RuntimeError: If a guard has seen more than `max_consecutive` consecutive bad
        steps. The message includes their number, cause and location.
      ValueError: If the state contains no guard, or a guard is inside
        `optax.MultiSteps`. Its accumulated gradient would keep a NaN, and every later
        update would be skipped.
      TypeError: If the state is traced, or is not an optimizer state.

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
      RuntimeError: skip_if_nonfinite found 1 consecutive bad step, expected at most 0
      (nonfinite_count 1, skip_count 1, skip_fraction 1). The first parameter with a
      non-finite gradient was 'weight'.
    """
    allowed = as_integer("max_consecutive", max_consecutive, ">= 0")
    check_accumulation(opt_state)
    found = metrics(opt_state)
    if any(isinstance(value, jax.core.Tracer) for value in found.values()):
        raise TypeError(
            "opt_state must contain concrete values, got tracers. Call check_guards "
            "outside of jit."
        )
    guards = [name.removesuffix(_STREAK) for name in found if name.endswith(_STREAK)]
    if not guards:
        states = opt_state if type(opt_state) is tuple else (opt_state,)
        raise ValueError(
            "opt_state must contain a guard such as stabjax.skip_if_nonfinite, got "
            f"{', '.join(type(state).__name__ for state in states)}."
        )
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
    """Formats the error message from the metrics of a guard."""
    counts = [
        f"{metric} {number}"
        for metric, number in own.items()
        if metric.endswith("_count")
    ]
    streak, leaf = int(own["consecutive"]), int(own["nonfinite_leaf"])
    text = (
        f"{guard} found {streak} consecutive bad step{'s' * (streak != 1)}, expected "
        f"at most {allowed} ({', '.join(counts)}, skip_fraction "
        f"{own['skip_fraction']:.3g})."
    )
    if leaf < 0:
        return text
    paths = leaf_paths(params)
    first = repr(leaf_name(paths[leaf])) if leaf < len(paths) else f"number {leaf}"
    return f"{text} The first parameter with a non-finite gradient was {first}."
