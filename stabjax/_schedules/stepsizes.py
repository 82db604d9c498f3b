"""Theoretical step sizes for gradient descent on smooth convex functions."""

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._arguments import as_integer, check, is_concrete, nan_unless, select
from stabjax._schedules.counts import builder, divmod_count
from stabjax._types import Condition, Number, Schedule

_SILVER_RATIO = 1 + 2**0.5
_PERIOD = 2**30  # for counts above this, the silver schedule repeats


@builder
def chebyshev_schedule(
    strong_convexity: Number, smoothness: Number, steps: int
) -> Schedule:
    """Returns the optimal step sizes for a quadratic function, in fractal order.

        f(t) = ((M + m) / 2 - (M - m) / 2 cos(pi (sigma_t - 1/2) / T))^(-1)

    These are the inverse roots of a Chebyshev polynomial. After T steps in any order,
    each error component with an eigenvalue in [m, M] has shrunk by at least a factor of
    2 / (theta^T + theta^-T) with theta = (sqrt(M/m) + 1) / (sqrt(M/m) - 1). The fractal
    order sigma = 1, T, T/2, T/2 + 1 ... alternates long and short steps and prevents
    large intermediate errors.

    Args:
      strong_convexity: m, the smallest eigenvalue of the Hessian, > 0. **Traceable.**
      smoothness: M, the largest eigenvalue. **Traceable.**
      steps: T, a power of 2. The schedule repeats after T steps. **Static.**

    Returns:
      A function of the count (a scalar or an array) that returns the step size, or NaN
      if a traced argument is out of range.

    Raises:
      ValueError: If `steps` is not a power of 2, or a concrete `strong_convexity` is
        not > 0 or exceeds `smoothness`.
      TypeError: If an argument is not a number.

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
    # Uses sines to compute the smallest roots accurately.
    half_angle = np.pi * (order - 0.5) / steps / 2
    low, high = select(good, strong_convexity, 1), select(good, smoothness, 1)
    roots = low * np.cos(half_angle) ** 2 + high * np.sin(half_angle) ** 2
    return _repeated(jnp.asarray(nan_unless(good, 1 / jnp.asarray(roots))))


@builder
def silver_schedule(smoothness: Number) -> Schedule:
    """Returns the silver step sizes for a smooth convex function.

        f(t) = (1 + rho^(nu(t + 1) - 1)) / L,    rho = 1 + sqrt(2)

    Here nu(n) is the exponent of 2 in the factorization of n. After n = 2^k - 1 steps
    of gradient descent, f(x_n) - f* <= L |x_0 - x*|^2 / (1 + sqrt(4 rho^(2k) - 3)),
    which decreases faster than 1/n. The loss may increase at intermediate steps.

    Args:
      smoothness: L, the largest eigenvalue of the Hessian, > 0. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the step size, or NaN
      if a traced `smoothness` is not > 0.

    Raises:
      ValueError: If a concrete `smoothness` is not > 0.
      TypeError: If `smoothness` is not a number.

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

    Let kappa = L / mu and z_1 = 1 / kappa. For n = 2, 4, 8 ..., let xi = 1 - z_{n/2}
    and

        z_n = z_{n/2} (xi + sqrt(1 + xi^2)),    y_n = z_{n/2} / (xi + sqrt(1 + xi^2))
        psi(u) = (1 + kappa u) / (1 + u)
        h_1 = [psi(z_1)],    h_{2n} = [h_n', psi(y_{2n}), h_n', psi(z_{2n})]

    where h_n' omits the last element of h_n. The schedule is f = h / L. After n steps,
    |x_n - x*| <= (1 - z_n) / (1 + z_n) |x_0 - x*|.

    Args:
      strong_convexity: mu, > 0. **Traceable.**
      smoothness: L. **Traceable.**
      steps: n, a power of 2. The schedule repeats after n steps. **Static.**

    Returns:
      A function of the count (a scalar or an array) that returns the step size, or NaN
      if a traced argument is out of range.

    Raises:
      ValueError: If `steps` is not a power of 2, or a concrete `strong_convexity` is
        not > 0 or exceeds `smoothness`.
      TypeError: If an argument is not a number.

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
    """Returns whether 0 < m <= M, or raises a ValueError for concrete values."""
    good = check("strong_convexity", strong_convexity, "> 0")
    ordered = strong_convexity <= smoothness
    if is_concrete(ordered) and not np.all(ordered):
        raise ValueError(
            "strong_convexity must be <= smoothness, got "
            f"strong_convexity={strong_convexity} and smoothness={smoothness}."
        )
    return good & ordered


def _log2(steps: int) -> int:
    """Returns the base-2 logarithm of `steps`, which must be a power of 2."""
    steps = as_integer("steps", steps)
    if steps & (steps - 1):
        raise ValueError(f"steps must be a power of 2, got {steps!r}.")
    return steps.bit_length() - 1
