"""Functions of one weight whose curvature grows with their slope."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stabjax._train.problem import Init, Problem
from stabjax.problems.arguments import Number, larger, number, smaller
from stabjax.problems.noise import like, with_gradient_noise
from stabjax.problems.ranges import ranges


def quartic(
    start: ArrayLike = 30.0, noise: ArrayLike = 0.0, init_spread: ArrayLike = 0.1
) -> Problem:
    r"""The fourth power: flat at its minimum and ever steeper away from it.

    .. math:: L(w) = w^4, \qquad w = w_0\,(1 + r\, u) \text{ at the start,} \quad
        u \sim U(-1, 1)

    Its curvature is bounded by its slope, :math:`L'' \le L_0 + L_1 |L'|` with
    :math:`L_0 = 16 / L_1^2` for every :math:`L_1 > 0`, and by no constant. From
    :math:`w_0`, gradient descent at a constant rate shrinks :math:`|w|` only below
    :math:`1 / (2 w_0^2)`, a rate that is then far too small for the flat part. Clipped,
    it walks down at a constant pace and has the flat part's rate when it arrives. That
    does not make constant rates fail: they are slower by a factor that depends on the
    start (Li et al., 2023).

    Args:
      start: :math:`w_0 > 0`; may be traced.
      noise: standard deviation of the Gaussian noise added to the gradient (not to the
        loss), at least 0; may be traced.
      init_spread: :math:`0 \le r`, the reach of the random start; may be traced.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape ``(1,)``.
      ``"stable_rate"`` is that of the farthest start; at the minimum there is no limit.

    Raises:
      TypeError: if an argument is not a single number.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.quartic(10.0, init_spread=0.0)
      >>> float(jax.grad(problem.loss)(jnp.array([10.0]), jax.random.key(0))[0])
      4000.0
      >>> problem.metadata["stable_rate"]
      0.005

    Source: Zhang et al., Why gradient clipping accelerates training: a theoretical
    justification for adaptivity, 2020; Li et al., Convex and non-convex optimization
    under generalized smoothness, 2023.
    """
    start = number("start", start, above=0)
    init_spread = number("init_spread", init_spread, at_least=0)
    farthest = start * (1 + init_spread)

    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(jnp.square(w)))

    metadata = ranges(1 / (2 * farthest**2), 4 * farthest**3) | {
        "name": "quartic",
        # Up to rates and down to thresholds that suit the flat part.
        "peak_value": (0.005 / farthest**2, larger(10.0, 50 / farthest**2)),
        "max_norm": (smaller(0.1, 0.004 * start**3), 40 * farthest**3),
        "optimum": 0.0,
        "minimizer": jnp.zeros(1),
        "steps": 500,
        "target_loss": 1e-3,
    }
    noisy = with_gradient_noise(loss, noise)
    return Problem(_near(start, init_spread), noisy, metadata=metadata)


def cosh(
    l0: ArrayLike = 1.0,
    l1: ArrayLike = 1.0,
    start: ArrayLike = 10.0,
    noise: ArrayLike = 0.0,
    init_spread: ArrayLike = 0.1,
) -> Problem:
    r"""A bowl whose walls grow exponentially: :math:`(L_0, L_1)`-smooth, and no better.

    .. math:: L(w) = \frac{L_0}{L_1^2} \big(\cosh(L_1 w) - 1\big), \qquad
        w = w_0\,(1 + r\, u) \text{ at the start,} \quad u \sim U(-1, 1)

    :math:`L'' = L_0 \cosh(L_1 w) \le L_0 + L_1 |L'|` holds exactly with these two
    numbers. From :math:`w_0`, a constant rate has to be below
    :math:`2 w_0 L_1 / (L_0 \sinh(L_1 w_0))` to make progress, whereas :math:`2 / L_0`
    is the limit at the minimum: the number of steps that a constant rate costs above a
    clipped one grows exponentially with :math:`L_1 w_0`. It depends on the start; given
    the steps, a small constant rate arrives too. Where :math:`L_1 |w|` is above 89.4,
    float32 overflows: the loss is infinite and so is the gradient.

    Args:
      l0: :math:`L_0 > 0`, the curvature at the minimum; may be traced.
      l1: :math:`L_1 > 0`, by how much curvature grows with the slope; may be traced.
      start: :math:`w_0 > 0`; may be traced.
      noise: standard deviation of the Gaussian noise added to the gradient (not to the
        loss), at least 0; may be traced.
      init_spread: :math:`0 \le r`, the reach of the random start; may be traced.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape ``(1,)``.
      ``"stable_rate"`` is that of the farthest start.

    Raises:
      TypeError: if an argument is not a single number.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.cosh(start=12.0)
      >>> slope = jax.grad(problem.loss)(jnp.array([12.0]), jax.random.key(0))
      >>> round(float(slope[0]) / 1e3)  # half of e**12
      81

    Source: Zhang et al., Why gradient clipping accelerates training: a theoretical
    justification for adaptivity, 2020; Li et al., Convex and non-convex optimization
    under generalized smoothness, 2023.
    """
    l0, l1 = number("l0", l0, above=0), number("l1", l1, above=0)
    start = number("start", start, above=0)
    init_spread = number("init_spread", init_spread, at_least=0)
    farthest = start * (1 + init_spread)

    def loss(w: jax.Array) -> jax.Array:
        # cosh(x) - 1 cancels near the minimum, and where 2 sinh(x / 2)^2 is finite its
        # derivative may have overflowed on the way: each has its place.
        x = like(w, l1) * w
        near = 2 * jnp.square(jnp.sinh(jnp.clip(x, -1, 1) / 2))
        value = jnp.where(jnp.abs(x) < 1, near, jnp.cosh(x) - 1)
        return jnp.sum(like(w, l0 / l1**2) * value)

    slope = l0 / l1 * _sinh(l1 * farthest)
    metadata = ranges(2 * farthest / slope, slope) | {
        "name": "cosh",
        # Up to rates and down to thresholds that suit the flat part.
        "peak_value": (
            0.02 * farthest / slope,
            larger(10 / l0, 200 * farthest / slope),
        ),
        "max_norm": (smaller(0.1 * l0 / l1, 0.001 * slope), 10 * slope),
        "optimum": 0.0,
        "minimizer": jnp.zeros(1),
        "steps": 500,
        "target_loss": 1e-3 * l0 / l1**2,
    }
    noisy = with_gradient_noise(loss, noise)
    return Problem(_near(start, init_spread), noisy, metadata=metadata)


def _near(start: Number, spread: Number) -> Init:
    """One weight, drawn around the start."""

    def init(key: jax.Array) -> jax.Array:
        offset = jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0)
        return start * (1 + spread * offset)

    return init


def _sinh(x: Number) -> Number:
    if isinstance(x, jax.Array):
        return jnp.sinh(x)
    return math.sinh(min(x, 700.0))  # above, it raises
