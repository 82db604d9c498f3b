"""Step sizes from theory, for gradient descent on smooth convex functions."""

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._arguments import as_integer, check, is_concrete, nan_unless, select
from stabjax._schedules.counts import builder, divmod_count
from stabjax._types import Condition, Number, Schedule

_SILVER_RATIO = 1 + 2**0.5
_PERIOD = 2**30  # of the silver schedule: counts beyond it repeat the pattern


@builder
def chebyshev_schedule(
    strong_convexity: Number, smoothness: Number, steps: int
) -> Schedule:
    """Returns the optimal step sizes for a quadratic, in their fractal order.

        f(t) = ((M + m) / 2 - (M - m) / 2 cos(pi (sigma_t - 1/2) / T))^(-1)

    the inverse roots of Chebyshev's polynomial. After T steps every component of the
    error along an eigenvalue in [m, M] has shrunk at least by 2 / (theta^T + theta^-T)
    with theta = (sqrt(M/m) + 1) / (sqrt(M/m) - 1), in any order. In the fractal order
    sigma = 1, T, T/2, T/2 + 1 ... short steps follow long ones, and nothing grows much
    on the way.

    Args:
      strong_convexity: m, the smallest eigenvalue of the Hessian, > 0. **Traceable.**
      smoothness: M, the largest eigenvalue. **Traceable.**
      steps: T, a power of 2, after which the schedule starts again. **Static.**

    Returns:
      A function of the count (a scalar or an array) that returns the step size, or NaN
      if a traced argument is out of its range.

    Raises:
      ValueError: `steps` is not a power of 2, or a concrete `strong_convexity` is not
        > 0 or is above `smoothness`.
      TypeError: an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.chebyshev_schedule(0.1, 1.0, 8)
      >>> [round(float(schedule(count)), 3) for count in range(8)]
      [9.204, 1.009, 2.164, 1.568, 5.687, 1.082, 3.333, 1.25]

    References:
      Agarwal, Goel and Zhang, Acceleration via Fractal Learning Rate Schedules, 2021.
      https://arxiv.org/abs/2103.01338
    """
    good = _check_curvatures(strong_convexity, smoothness)
    order = np.ones(1, np.int64)
    for _ in range(_log2(steps)):
        mirrored = 2 * len(order) + 1 - order
        order = np.stack([order, mirrored], axis=1).ravel()
    # By the sines: the smallest root is itself small.
    half_angle = np.pi * (order - 0.5) / steps / 2
    low, high = select(good, strong_convexity, 1), select(good, smoothness, 1)
    roots = low * np.cos(half_angle) ** 2 + high * np.sin(half_angle) ** 2
    return _repeated(jnp.asarray(nan_unless(good, 1 / jnp.asarray(roots))))


@builder
def silver_schedule(smoothness: Number) -> Schedule:
    """Returns the silver step sizes for a smooth convex function.

        f(t) = (1 + rho^(nu(t + 1) - 1)) / L,    rho = 1 + sqrt(2)

    with nu(n) how often 2 divides n. After n = 2^k - 1 steps of gradient descent
    f(x_n) - f* <= L |x_0 - x*|^2 / (1 + sqrt(4 rho^(2k) - 3)), which falls faster than
    1/n. In between the loss may rise.

    Args:
      smoothness: L, the largest eigenvalue of the Hessian, > 0. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the step size, or NaN
      if a traced `smoothness` is not > 0.

    Raises:
      ValueError: a concrete `smoothness` is not > 0.
      TypeError: `smoothness` is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.silver_schedule(1.0)
      >>> [round(float(schedule(count)), 3) for count in range(8)]
      [1.414, 2.0, 1.414, 3.414, 1.414, 2.0, 1.414, 6.828]

    References:
      Altschuler and Parrilo, Acceleration by Stepsize Hedging II: Silver Stepsize
      Schedule for Smooth Convex Optimization, 2023. https://arxiv.org/abs/2309.16530
    """
    good = check("smoothness", smoothness, "> 0")

    def schedule(count: Number) -> Number:
        _, position = divmod_count(count, _PERIOD)
        number = jnp.asarray(position).astype(jnp.int32) + 1
        twos = jax.lax.population_count((number & -number) - 1)
        step = 1 + _SILVER_RATIO ** (twos.astype(float) - 1)
        return nan_unless(good, step / smoothness)

    return schedule


@builder
def strongly_convex_silver_schedule(
    strong_convexity: Number, smoothness: Number, steps: int
) -> Schedule:
    """Returns the silver step sizes for a smooth and strongly convex function.

    With kappa = L / mu, z_1 = 1 / kappa and, for n = 2, 4, 8 ..., xi = 1 - z_{n/2},

        z_n = z_{n/2} (xi + sqrt(1 + xi^2)),    y_n = z_{n/2} / (xi + sqrt(1 + xi^2))
        psi(u) = (1 + kappa u) / (1 + u)
        h_1 = [psi(z_1)],    h_{2n} = [h_n', psi(y_{2n}), h_n', psi(z_{2n})]

    where h_n' lacks the last element, and f = h / L. After n steps
    |x_n - x*| <= (1 - z_n) / (1 + z_n) |x_0 - x*|.

    Args:
      strong_convexity: mu, > 0. **Traceable.**
      smoothness: L. **Traceable.**
      steps: n, a power of 2, after which the schedule starts again. **Static.**

    Returns:
      A function of the count (a scalar or an array) that returns the step size, or NaN
      if a traced argument is out of its range.

    Raises:
      ValueError: `steps` is not a power of 2, or a concrete `strong_convexity` is not
        > 0 or is above `smoothness`.
      TypeError: an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.strongly_convex_silver_schedule(0.1, 1.0, 4)
      >>> [round(float(schedule(count)), 3) for count in range(4)]
      [1.384, 1.892, 1.384, 3.828]

    References:
      Altschuler and Parrilo, Acceleration by Stepsize Hedging I: Multi-Step Descent and
      the Silver Stepsize Schedule, 2023. https://arxiv.org/abs/2309.07879
    """
    good = _check_curvatures(strong_convexity, smoothness)
    low, high = select(good, strong_convexity, 1), select(good, smoothness, 1)
    z = low / high

    def psi(u: Number) -> jax.Array:
        return jnp.asarray((1 + u * high / low) / (1 + u))

    sizes = [psi(z)]
    for _ in range(_log2(steps)):
        growth = (1 - z) + jnp.sqrt(1 + jnp.square(1 - z))
        y, z = z / growth, z * growth
        sizes = [*sizes[:-1], psi(y), *sizes[:-1], psi(z)]
    return _repeated(jnp.asarray(nan_unless(good, jnp.stack(sizes) / high)))


def _repeated(sizes: jax.Array) -> Schedule:
    def schedule(count: Number) -> Number:
        _, position = divmod_count(count, len(sizes))
        return sizes[jnp.asarray(position).astype(jnp.int32)]

    return schedule


def _check_curvatures(strong_convexity: Number, smoothness: Number) -> Condition:
    """Returns whether 0 < m <= M; raises if both are concrete and it is not so."""
    good = check("strong_convexity", strong_convexity, "> 0")
    ordered = strong_convexity <= smoothness
    if is_concrete(ordered) and not np.all(ordered):
        raise ValueError(
            "strong_convexity must be <= smoothness, got "
            f"strong_convexity={strong_convexity} and smoothness={smoothness}."
        )
    return good & ordered


def _log2(steps: int) -> int:
    """Returns k for 2**k steps."""
    steps = as_integer("steps", steps)
    if steps & (steps - 1):
        raise ValueError(f"steps must be a power of 2, got {steps!r}.")
    return steps.bit_length() - 1
