"""Step sizes that theory gives for gradient descent on smooth convex functions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stabjax._schedules.arguments import (
    ArrayLike,
    builder,
    check_positive,
    divmod_count,
    known,
    nan_unless,
    select,
)

_RHO = 1 + 2**0.5  # the silver ratio


@builder
def chebyshev_schedule(
    strong_convexity: ArrayLike, smoothness: ArrayLike, steps: int
) -> optax.Schedule:
    r"""The best steps for a quadratic: inverses of the roots of Chebyshev's polynomial.

    .. math::
        f(t) = \left( \frac{M + m}{2} - \frac{M - m}{2}
        \cos\left(\pi \frac{\sigma_t - 1/2}{T}\right) \right)^{-1}

    After T steps every component of the error along an eigenvalue in [m, M] has shrunk
    at least by :math:`2 / (\theta^T + \theta^{-T})` with
    :math:`\theta = (\sqrt{M/m} + 1) / (\sqrt{M/m} - 1)`, whatever the order. In the
    fractal order :math:`\sigma`, 1, T, T/2, T/2 + 1 ..., long steps are followed by
    short ones, and nothing grows much on the way.

    Args:
      strong_convexity: :math:`m`, the least eigenvalue of the Hessian, positive.
        Traceable.
      smoothness: :math:`M`, the greatest one. Traceable.
      steps: :math:`T`, a power of 2; the schedule then starts again. Static.

    Returns:
      A function of the count, of any shape, that returns the step size, and NaN if an
      argument was traced and is none of those allowed.

    Raises:
      ValueError: `steps` is no power of 2; a concrete `strong_convexity` is not
        positive, or above `smoothness`.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.chebyshev_schedule(0.1, 1.0, 8)
      >>> [round(float(schedule(count)), 3) for count in range(8)]
      [9.204, 1.009, 2.164, 1.568, 5.687, 1.082, 3.333, 1.25]

    Source: Agarwal, Goel and Zhang, Acceleration via Fractal Learning Rate Schedules,
    2021 (arXiv 2103.01338).
    """
    good = _convex(strong_convexity, smoothness)
    order = np.ones(1, np.int64)
    for _ in range(_power_of_two(steps)):
        mirrored = 2 * len(order) + 1 - order
        order = np.stack([order, mirrored], axis=1).ravel()
    # By the sines: the smallest root is small itself.
    half_angle = np.pi * (order - 0.5) / steps / 2
    low, high = select(good, strong_convexity, 1), select(good, smoothness, 1)
    roots = low * np.cos(half_angle) ** 2 + high * np.sin(half_angle) ** 2
    return _cycle_through(nan_unless(good, 1 / jnp.asarray(roots)))


@builder
def silver_schedule(smoothness: ArrayLike) -> optax.Schedule:
    r"""The silver steps for a smooth convex function: short ones, and ever longer ones.

    .. math:: f(t) = \frac{1 + \rho^{\nu(t + 1) - 1}}{L}, \qquad \rho = 1 + \sqrt 2

    with :math:`\nu(n)` how often 2 divides n. After :math:`n = 2^k - 1` steps of
    gradient descent :math:`f(x_n) - f_* \le L \|x_0 - x_*\|^2 / (1 + \sqrt{4
    \rho^{2k} - 3})`, which falls faster than 1/n. In between the loss may rise.

    Args:
      smoothness: :math:`L`, the greatest eigenvalue of the Hessian, positive.
        Traceable.

    Returns:
      A function of the count, of any shape, that returns the step size, and NaN if
      `smoothness` was traced and is not positive.

    Raises:
      ValueError: a concrete `smoothness` is not positive.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.silver_schedule(1.0)
      >>> [round(float(schedule(count)), 3) for count in range(8)]
      [1.414, 2.0, 1.414, 3.414, 1.414, 2.0, 1.414, 6.828]

    Source: Altschuler and Parrilo, Acceleration by Stepsize Hedging II: Silver Stepsize
    Schedule for Smooth Convex Optimization, 2023 (arXiv 2309.16530).
    """
    good = check_positive(smoothness=smoothness)

    def schedule(count: ArrayLike) -> ArrayLike:
        number = jnp.asarray(count).astype(jnp.int32) + 1
        twos = jax.lax.population_count((number & -number) - 1)
        step = 1 + _RHO ** (twos.astype(float) - 1)
        return nan_unless(good, step / smoothness)

    return schedule


@builder
def strongly_convex_silver_schedule(
    strong_convexity: ArrayLike, smoothness: ArrayLike, steps: int
) -> optax.Schedule:
    r"""The silver steps for a smooth and strongly convex function.

    With :math:`\kappa = L / \mu`, :math:`z_1 = 1/\kappa` and, for n = 2, 4, 8 ...,
    :math:`\xi = 1 - z_{n/2}`,

    .. math::
        z_n = z_{n/2} (\xi + \sqrt{1 + \xi^2}), \quad
        y_n = z_{n/2} / (\xi + \sqrt{1 + \xi^2}), \quad
        \psi(u) = \frac{1 + \kappa u}{1 + u},

    the steps are :math:`h_1 = [\psi(z_1)]` and
    :math:`h_{2n} = [h_n', \psi(y_{2n}), h_n', \psi(z_{2n})]`, where :math:`h_n'` lacks
    the last entry; and :math:`f = h / L`. After n steps
    :math:`\|x_n - x_*\| \le \frac{1 - z_n}{1 + z_n} \|x_0 - x_*\|`.

    Args:
      strong_convexity: :math:`\mu`, positive. Traceable.
      smoothness: :math:`L`. Traceable.
      steps: n, a power of 2; the schedule then starts again. Static.

    Returns:
      A function of the count, of any shape, that returns the step size, and NaN if an
      argument was traced and is none of those allowed.

    Raises:
      ValueError: `steps` is no power of 2; a concrete `strong_convexity` is not
        positive, or above `smoothness`.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.strongly_convex_silver_schedule(0.1, 1.0, 4)
      >>> [round(float(schedule(count)), 3) for count in range(4)]
      [1.384, 1.892, 1.384, 3.828]

    Source: Altschuler and Parrilo, Acceleration by Stepsize Hedging I: Multi-Step
    Descent and the Silver Stepsize Schedule, 2023 (arXiv 2309.07879).
    """
    good = _convex(strong_convexity, smoothness)
    low, high = select(good, strong_convexity, 1), select(good, smoothness, 1)
    z = low / high

    def psi(u: ArrayLike) -> ArrayLike:
        return jnp.asarray((1 + u * high / low) / (1 + u))

    sizes = [psi(z)]
    for _ in range(_power_of_two(steps)):
        growth = (1 - z) + jnp.sqrt(1 + jnp.square(1 - z))
        y, z = z / growth, z * growth
        sizes = [*sizes[:-1], psi(y), *sizes[:-1], psi(z)]
    return _cycle_through(nan_unless(good, jnp.stack(sizes) / high))


def _cycle_through(sizes: jax.Array) -> optax.Schedule:
    def schedule(count: ArrayLike) -> ArrayLike:
        _, position = divmod_count(count, len(sizes))
        return sizes[jnp.asarray(position).astype(jnp.int32)]

    return schedule


def _convex(strong_convexity: ArrayLike, smoothness: ArrayLike) -> ArrayLike:
    """Whether the curvatures are those of a function; what is concrete raises."""
    good = check_positive(strong_convexity=strong_convexity)
    if not known(strong_convexity, smoothness):
        return good & (strong_convexity <= smoothness)
    if not np.all(np.asarray(strong_convexity) <= np.asarray(smoothness)):
        raise ValueError(
            "strong_convexity must not be above smoothness, got "
            f"strong_convexity={strong_convexity} and smoothness={smoothness}."
        )
    return good


def _power_of_two(steps: int) -> int:
    """k for 2 ** k steps."""
    if not isinstance(steps, int) or steps < 1 or steps & (steps - 1):
        raise ValueError(f"steps must be a power of 2, got {steps!r}.")
    return steps.bit_length() - 1
