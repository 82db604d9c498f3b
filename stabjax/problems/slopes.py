"""Functions of one weight whose curvature grows with their slope."""

import math

import jax
import jax.numpy as jnp

from stabjax._arguments import as_scalar
from stabjax._train.problem import Init, Problem
from stabjax._types import Number
from stabjax.problems.formulas import (
    Scalar,
    formula_problem,
    larger,
    like,
    smaller,
    sweep_ranges,
)


def quartic(
    start: Number = 30.0, noise: Number = 0.0, init_spread: Number = 0.1
) -> Problem:
    """Fourth power: flat at its minimum, and ever steeper away from it.

        L(w) = w^4,  w = w_0 (1 + r u) at the start,  u ~ U(-1, 1)

    Its curvature is bounded by its slope, `L'' <= L_0 + L_1 |L'|` with
    `L_0 = 16 / L_1^2` for every `L_1 > 0`, but by no constant. From `w_0`, gradient
    descent at a constant learning rate shrinks `|w|` only below `1 / (2 w_0^2)`, which
    is far too small for the flat part. Clipped descent approaches at a constant pace
    with a learning rate that suits the flat part. Constant rates still converge; they
    are slower by a factor that depends on the start (Li et al., 2023).

    Args:
      start: `w_0`, > 0. **Traceable.**
      noise: standard deviation of the Gaussian noise added to the gradient (not to the
        loss), >= 0. **Traceable.**
      init_spread: relative spread `r` of the start, >= 0. **Traceable.**

    Returns:
      A `Problem` whose params are an array of shape `(1,)`. `"stable_rate"` holds at
      the farthest start; at the minimum there is no limit.

    Raises:
      TypeError: an argument is not a single number.
      ValueError: an argument is out of range. A traced one gives NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.quartic(10.0, init_spread=0.0)
      >>> float(jax.grad(problem.loss)(jnp.array([10.0]), jax.random.key(0))[0])
      4000.0
      >>> problem.metadata["stable_rate"]
      0.005

    References:
      Zhang et al., *Why gradient clipping accelerates training: a theoretical
      justification for adaptivity*, 2020, https://arxiv.org/abs/1905.11881

      Li et al., *Convex and non-convex optimization under generalized smoothness*,
      2023, https://arxiv.org/abs/2306.01264
    """
    start = as_scalar("start", start, "> 0")
    init_spread = as_scalar("init_spread", init_spread, ">= 0")
    farthest = start * (1 + init_spread)

    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(jnp.square(w)))

    metadata = sweep_ranges(1 / (2 * farthest**2), 4 * farthest**3) | {
        "name": "quartic",
        # Extended to learning rates and thresholds that suit the flat part.
        "peak_value": (0.005 / farthest**2, larger(10.0, 50 / farthest**2)),
        "max_norm": (smaller(0.1, 0.004 * start**3), 40 * farthest**3),
        "minimizer": jnp.zeros(1),
        "steps": 500,
        "target_loss": 1e-3,
    }
    return formula_problem(_near(start, init_spread), loss, noise, metadata)


def cosh(
    l0: Number = 1.0,
    l1: Number = 1.0,
    start: Number = 10.0,
    noise: Number = 0.0,
    init_spread: Number = 0.1,
) -> Problem:
    """Hyperbolic cosine, whose walls grow exponentially: `(L_0, L_1)`-smooth.

        L(w) = L_0 / L_1^2 (cosh(L_1 w) - 1)
        w = w_0 (1 + r u) at the start,  u ~ U(-1, 1)

    These are the smallest constants for which `L'' <= L_0 + L_1 |L'|`. From `w_0`, a
    constant learning rate makes progress only below
    `2 w_0 L_1 / (L_0 sinh(L_1 w_0))`, whereas the limit at the minimum is `2 / L_0`.
    So the number of steps that a constant rate needs beyond a clipped one grows
    exponentially with `L_1 w_0`. With enough steps, a small constant rate arrives too.
    Where `L_1 |w|` is above 89.4, float32 overflows, and the loss and its gradient are
    infinite.

    Args:
      l0: curvature `L_0` at the minimum, > 0. **Traceable.**
      l1: growth `L_1` of the curvature with the slope, > 0. **Traceable.**
      start: `w_0`, > 0. **Traceable.**
      noise: standard deviation of the Gaussian noise added to the gradient (not to the
        loss), >= 0. **Traceable.**
      init_spread: relative spread `r` of the start, >= 0. **Traceable.**

    Returns:
      A `Problem` whose params are an array of shape `(1,)`. `"stable_rate"` holds at
      the farthest start.

    Raises:
      TypeError: an argument is not a single number.
      ValueError: an argument is out of range. A traced one gives NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.cosh(start=12.0)
      >>> slope = jax.grad(problem.loss)(jnp.array([12.0]), jax.random.key(0))
      >>> round(float(slope[0]) / 1e3)  # half of e^12
      81

    References:
      Zhang et al., *Why gradient clipping accelerates training: a theoretical
      justification for adaptivity*, 2020, https://arxiv.org/abs/1905.11881

      Li et al., *Convex and non-convex optimization under generalized smoothness*,
      2023, https://arxiv.org/abs/2306.01264
    """
    l0, l1 = as_scalar("l0", l0, "> 0"), as_scalar("l1", l1, "> 0")
    start = as_scalar("start", start, "> 0")
    init_spread = as_scalar("init_spread", init_spread, ">= 0")
    farthest = start * (1 + init_spread)

    def loss(w: jax.Array) -> jax.Array:
        # cosh(x) - 1 cancels near the minimum. 2 sinh(x / 2)^2 does not, but far away
        # its derivative overflows before its value does.
        x = like(w, l1) * w
        near = 2 * jnp.square(jnp.sinh(jnp.clip(x, -1, 1) / 2))
        value = jnp.where(jnp.abs(x) < 1, near, jnp.cosh(x) - 1)
        return jnp.sum(like(w, l0 / l1**2) * value)

    slope = l0 / l1 * _sinh(l1 * farthest)
    stable_rate = 2 * farthest / slope
    metadata = sweep_ranges(stable_rate, slope) | {
        "name": "cosh",
        # Extended to learning rates and thresholds that suit the flat part.
        "peak_value": (0.01 * stable_rate, larger(10 / l0, 100 * stable_rate)),
        "max_norm": (smaller(0.1 * l0 / l1, 0.001 * slope), 10 * slope),
        "minimizer": jnp.zeros(1),
        "steps": 500,
        "target_loss": 1e-3 * l0 / l1**2,
    }
    return formula_problem(_near(start, init_spread), loss, noise, metadata)


def _near(start: Scalar, spread: Scalar) -> Init:
    """Returns an init that draws one weight around the start."""

    def init(key: jax.Array) -> jax.Array:
        offset = jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0)
        return start * (1 + spread * offset)

    return init


def _sinh(x: Scalar) -> Scalar:
    if isinstance(x, jax.Array):
        return jnp.sinh(x)
    return math.sinh(min(x, 700.0))  # math.sinh raises from 710 on
