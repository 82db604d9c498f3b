"""Functions of two weights with curved valleys and with a wall."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stabjax._train.problem import Init, Problem
from stabjax.problems.arguments import number
from stabjax.problems.noise import like, with_gradient_noise
from stabjax.problems.ranges import ranges


def rosenbrock(
    steepness: ArrayLike = 100.0,
    noise: ArrayLike = 0.0,
    init_spread: ArrayLike = 0.1,
) -> Problem:
    r"""Rosenbrock's banana: a curved valley with steep sides and a flat floor.

    .. math:: L(w) = (1 - w_1)^2 + b\,(w_2 - w_1^2)^2

    from :math:`(-1.2, 1) + r\, U(-1, 1)^2`. The optimum is 0 at :math:`(1, 1)`, where
    the largest curvature is :math:`\lambda = 1 + 5b + \sqrt{(1 + 5b)^2 - 4b}`, so
    gradient descent settles there only if its rate is below :math:`2/\lambda`.

    Args:
      steepness: :math:`b > 0`, of the sides of the valley; may be traced.
      noise: standard deviation of the Gaussian noise added to each entry of the
        gradient (not to the loss), at least 0; may be traced.
      init_spread: :math:`r \ge 0`, the reach of the random start; may be traced.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape ``(2,)``.

    Raises:
      TypeError: if an argument is not a single number.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.rosenbrock()
      >>> round(float(problem.loss(jnp.array([-1.2, 1.0]), jax.random.key(0))), 3)
      24.2

    Source: Rosenbrock, An automatic method for finding the greatest or least value of a
    function, 1960.
    """
    steepness = number("steepness", steepness, above=0)

    def loss(w: jax.Array) -> jax.Array:
        side = w[1] - jnp.square(w[0])
        return jnp.square(1 - w[0]) + like(w, steepness) * jnp.square(side)

    half_trace = 1 + 5 * steepness
    sharpness = half_trace + (half_trace**2 - 4 * steepness) ** 0.5
    # The first gradient is (-2.16 b, -0.88 b), but for its small part without b.
    metadata = ranges(2 / sharpness, 2.33 * steepness) | {
        "name": "rosenbrock",
        "optimum": 0.0,
        "minimizer": jnp.ones(2),
        "steps": 2000,
        "target_loss": 0.1,
    }
    init = _around((-1.2, 1.0), init_spread)
    return Problem(init, with_gradient_noise(loss, noise), metadata=metadata)


def beale(noise: ArrayLike = 0.0, init_spread: ArrayLike = 0.1) -> Problem:
    r"""Beale's function: a flat floor between walls that grow as a sixth power.

    .. math:: L(w) = \sum_{i=1}^3 \big(t_i - w_1 (1 - w_2^i)\big)^2, \qquad
        t = (1.5,\ 2.25,\ 2.625)

    from :math:`(1, 1.5) + r\, U(-1, 1)^2`. The optimum is 0 at :math:`(3, 0.5)`.

    Args:
      noise: standard deviation of the Gaussian noise added to each entry of the
        gradient (not to the loss), at least 0; may be traced.
      init_spread: :math:`r \ge 0`, the reach of the random start; may be traced.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape ``(2,)``.

    Raises:
      TypeError: if an argument is not a single number.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.beale()
      >>> round(float(problem.loss(jnp.array([1.0, 1.5]), jax.random.key(0))), 2)
      41.25

    Source: Beale, On an iterative method for finding a local minimum of a function of
    more than one variable, 1958.
    """

    def loss(w: jax.Array) -> jax.Array:
        wanted = zip((1.5, 2.25, 2.625), (1, 2, 3), strict=True)
        return sum(
            (jnp.square(t - w[0] * (1 - w[1] ** i)) for t, i in wanted),
            start=jnp.zeros((), w.dtype),
        )

    # The curvature is 2 J'J with the three terms' Jacobian J, at most 48.97979 there.
    metadata = ranges(2 / 48.97979, 90.0) | {
        "name": "beale",
        "optimum": 0.0,
        "minimizer": jnp.array([3.0, 0.5]),
        "steps": 2000,
        "target_loss": 0.01,
    }
    init = _around((1.0, 1.5), init_spread)
    return Problem(init, with_gradient_noise(loss, noise), metadata=metadata)


def branin(noise: ArrayLike = 0.0, init_spread: ArrayLike = 0.1) -> Problem:
    r"""Branin's function: a curved valley with three equal minima.

    .. math:: L(w) = \Big(w_2 - \frac{5.1}{4 \pi^2} w_1^2 + \frac5\pi w_1 - 6\Big)^2
        + 10 \Big(1 - \frac1{8 \pi}\Big) \cos w_1 + 10

    from :math:`(2.5, 12.5) + r\, U(-1, 1)^2`. The optimum is
    :math:`5 / (4 \pi) \approx 0.398`, at :math:`(\pi, 2.275)` and two other places.

    Args:
      noise: standard deviation of the Gaussian noise added to each entry of the
        gradient (not to the loss), at least 0; may be traced.
      init_spread: :math:`r \ge 0`, the reach of the random start; may be traced.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape ``(2,)``.

    Raises:
      TypeError: if an argument is not a single number.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.branin()
      >>> loss = problem.loss(jnp.array([jnp.pi, 2.275]), jax.random.key(0))
      >>> round(float(loss), 3)
      0.398

    Source: Branin, Widely convergent method for finding multiple solutions of
    simultaneous nonlinear equations, 1972.
    """

    def loss(w: jax.Array) -> jax.Array:
        x, y = w
        valley = y - 5.1 / (4 * math.pi**2) * jnp.square(x) + 5 / math.pi * x - 6
        wave = 10 * (1 - 1 / (8 * math.pi)) * jnp.cos(x)
        return jnp.square(valley) + wave + 10

    # At (pi, y) the valley's slope in w1 is v = 5 / pi - 5.1 / (2 pi) and its bend
    # counts for nothing, as the square is 0 there.
    slope = 5 / math.pi - 5.1 / (2 * math.pi)
    wave = 10 * (1 - 1 / (8 * math.pi))
    along, across = 2 * slope**2 + wave, 2.0
    spread = ((along - across) ** 2 + 16 * slope**2) ** 0.5
    metadata = ranges(4 / (along + across + spread), 20.0) | {
        "name": "branin",
        "optimum": 1.25 / math.pi,
        "minimizer": jnp.array([math.pi, 2.275]),
        "steps": 200,
        "target_loss": 0.41,
    }
    init = _around((2.5, 12.5), init_spread)
    return Problem(init, with_gradient_noise(loss, noise), metadata=metadata)


def cliff(
    steepness: ArrayLike = 1000.0,
    width: ArrayLike = 0.01,
    noise: ArrayLike = 0.0,
    init_scale: ArrayLike = 4.0,
) -> Problem:
    r"""A gentle plain that ends at a wall, with the optimum at the wall's foot.

    .. math:: L(x, y) = r_\delta(x) + S\, r_\delta(\max(x, 0)) + r_1(y), \qquad
        r_\delta(x) = \sqrt{x^2 + \delta^2} - \delta

    Over the plain, :math:`x < 0`, the slope is at most 1 in each direction; right of
    the foot, :math:`x > 0`, it is :math:`S + 1`. From the start,
    :math:`(-s\,u_1, s\,u_2)` with :math:`u_i \sim U(0.5, 1)`, gradient descent walks
    over the plain, a step no longer than its rate :math:`\eta`. If
    :math:`\eta \le \delta` it comes to rest at the foot and never touches the wall.
    If :math:`\eta` is larger it steps into the wall, sooner or later, and the next step
    catapults it by up to :math:`\eta (S + 1)`, which takes as many as :math:`S` steps
    to walk back. Clipped at :math:`c`, it is thrown back by at most :math:`\eta c`.

    Args:
      steepness: :math:`S \ge 0`, the slope of the wall; may be traced.
      width: :math:`\delta > 0`, over which the plain and the wall bend into each
        other; may be traced.
      noise: standard deviation of the Gaussian noise added to each entry of the
        gradient (not to the loss), at least 0; may be traced.
      init_scale: :math:`s > 0`, how far away the start is; may be traced.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape ``(2,)``.

    Raises:
      TypeError: if an argument is not a single number.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.cliff()
      >>> slope = jax.grad(problem.loss)
      >>> at = [slope(jnp.array([x, 0.0]), jax.random.key(0)) for x in (-1.0, 0.1)]
      >>> [round(float(g[0]), -3) for g in at]
      [-0.0, 1000.0]

    Source: the walls of recurrent networks in Pascanu, Mikolov and Bengio, On the
    difficulty of training recurrent neural networks, 2013, and figure 8.3 of
    Goodfellow, Bengio and Courville, Deep Learning, 2016, as a formula of our own.
    """
    steepness = number("steepness", steepness, at_least=0)
    width = number("width", width, above=0)
    init_scale = number("init_scale", init_scale, above=0)

    def init(key: jax.Array) -> jax.Array:
        distance = jax.random.uniform(key, (2,), minval=0.5, maxval=1.0)
        return init_scale * jnp.array([-1.0, 1.0]) * distance

    def loss(w: jax.Array) -> jax.Array:
        delta = like(w, width)
        wall = like(w, steepness) * _rounded(jnp.maximum(w[0], 0), delta)
        return _rounded(w[0], delta) + wall + _rounded(w[1], jnp.ones_like(delta))

    metadata = ranges(width, 10.0) | {
        "name": "cliff",
        "optimum": 0.0,
        "minimizer": jnp.zeros(2),
        "steps": 200,
        "target_loss": 0.1,
    }
    return Problem(init, with_gradient_noise(loss, noise), metadata=metadata)


def _around(start: tuple[float, float], spread: ArrayLike) -> Init:
    """Two weights, drawn around the start."""
    spread = number("init_spread", spread, at_least=0)

    def init(key: jax.Array) -> jax.Array:
        offset = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return jnp.array(start) + spread * offset

    return init


def _rounded(x: jax.Array, width: jax.Array) -> jax.Array:
    """The absolute value, rounded off around zero over ``width``."""
    return jnp.sqrt(jnp.square(x) + jnp.square(width)) - width
