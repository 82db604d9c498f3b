"""One-dimensional functions whose curvature increases with their slope."""

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
    """Fourth power of a weight, which is flat at its minimum and steep far from it.

        L(w) = w^4

    The initial weight is `w = w_0 (1 + r u)`, where `u ~ U(-1, 1)`. The curvature is
    unbounded, but it satisfies `L'' <= L_0 + L_1 |L'|` with `L_0 = 16 / L_1^2` for
    every `L_1 > 0`. Gradient descent from `w_0` decreases `|w|` only if the learning
    rate is below `1 / (2 w_0^2)`, which is far too small near the minimum. With
    clipping, a learning rate that suits the flat region can be used from the beginning,
    and steps in the steep region have a constant length. Gradient descent with a
    sufficiently small constant learning rate also converges, but it is slower by a
    factor that depends on the initial weight (Li et al., 2023).

    Args:
      start: initial weight `w_0`, > 0. **Traceable.**
      noise: standard deviation of the Gaussian noise added to the gradient (not to the
        loss), >= 0. **Traceable.**
      init_spread: relative spread `r` of the initial weight, >= 0. **Traceable.**

    Returns:
      A `Problem` whose parameters are an array of shape `(1,)`. `"stable_rate"` applies
      to the largest initial weight. At the minimum, any learning rate is stable.

    Raises:
      TypeError: If an argument is not a scalar.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

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

    # A step maps w to w (1 - 4 rate w^2), which decreases |w| if rate < 1 / (2 w^2).
    metadata = sweep_ranges(1 / (2 * farthest**2), 4 * farthest**3) | {
        "name": "quartic",
        # The ranges also cover values that suit the flat region.
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
    """Hyperbolic cosine, an `(L_0, L_1)`-smooth function with exponential walls.

        L(w) = L_0 / L_1^2 (cosh(L_1 w) - 1)

    The initial weight is `w = w_0 (1 + r u)`, where `u ~ U(-1, 1)`. `L_0` and `L_1` are
    the smallest constants for which `L'' <= L_0 + L_1 |L'|`. Gradient descent from
    `w_0` makes progress only if its learning rate is below
    `2 w_0 L_1 / (L_0 sinh(L_1 w_0))`, whereas the limit at the minimum is `2 / L_0`.
    The number of additional steps that a constant learning rate needs without clipping
    therefore grows exponentially with `L_1 w_0`. If `L_1 |w|` exceeds 89.4, the loss
    and its gradient overflow in float32.

    Args:
      l0: curvature `L_0` at the minimum, > 0. **Traceable.**
      l1: growth rate `L_1` of the curvature with the slope, > 0. **Traceable.**
      start: initial weight `w_0`, > 0. **Traceable.**
      noise: standard deviation of the Gaussian noise added to the gradient (not to the
        loss), >= 0. **Traceable.**
      init_spread: relative spread `r` of the initial weight, >= 0. **Traceable.**

    Returns:
      A `Problem` whose parameters are an array of shape `(1,)`. `"stable_rate"` applies
      to the largest initial weight.

    Raises:
      TypeError: If an argument is not a scalar.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

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
        # cosh(x) - 1 suffers from cancellation near the minimum. 2 sinh(x / 2)^2 does
        # not, but for large x its derivative overflows before its value does.
        x = like(w, l1) * w
        near = 2 * jnp.square(jnp.sinh(jnp.clip(x, -1, 1) / 2))
        value = jnp.where(jnp.abs(x) < 1, near, jnp.cosh(x) - 1)
        return jnp.sum(like(w, l0 / l1**2) * value)

    slope = l0 / l1 * _sinh(l1 * farthest)
    # A step that is longer than 2 w increases |w|.
    stable_rate = 2 * farthest / slope
    metadata = sweep_ranges(stable_rate, slope) | {
        "name": "cosh",
        # The ranges also cover values that suit the flat region.
        "peak_value": (0.01 * stable_rate, larger(10 / l0, 100 * stable_rate)),
        "max_norm": (smaller(0.1 * l0 / l1, 0.001 * slope), 10 * slope),
        "minimizer": jnp.zeros(1),
        "steps": 500,
        "target_loss": 1e-3 * l0 / l1**2,
    }
    return formula_problem(_near(start, init_spread), loss, noise, metadata)


def _near(start: Scalar, spread: Scalar) -> Init:
    """Returns an init function that draws one weight around `start`."""

    def init(key: jax.Array) -> jax.Array:
        offset = jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0)
        return start * (1 + spread * offset)

    return init


def _sinh(x: Scalar) -> Scalar:
    if isinstance(x, jax.Array):
        return jnp.sinh(x)
    return math.sinh(min(x, 700.0))  # math.sinh raises an OverflowError above 710
