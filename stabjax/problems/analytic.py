"""Problems given by a formula: their optimum and their largest stable rate are known.

Gradient noise, where a problem has some, is added to the gradient alone: the loss keeps
its noise-free value, so that what a training reached can be read off without a bias. To
differentiate that through the training, take the loss of the problem without noise.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stabjax.problems.arguments import Number, number, size
from stabjax.problems.problem import Loss, Problem


def quadratic(
    curvature: ArrayLike = 2.0,
    noise: ArrayLike = 0.0,
    init_scale: ArrayLike = 5.0,
    *,
    dim: int = 2,
) -> Problem:
    r"""A bowl, the same in all directions; by default :math:`L = w_1^2 + w_2^2`.

    .. math:: L(w) = \frac{h}{2} \sum_i w_i^2, \qquad
        w_i = \pm s\, u_i \text{ at the start,} \quad u_i \sim U(0.1, 1)

    with curvature :math:`h`, scale :math:`s` and alternating signs. The draw stays
    away from 0 so that no seed starts at the optimum with nothing to learn. Gradient
    descent with the rate :math:`\eta` multiplies :math:`w` by :math:`1 - \eta h`, so it
    diverges if :math:`\eta > 2/h`; with noise :math:`\sigma` below that its loss
    settles at :math:`d\, \eta\, \sigma^2 / (4 - 2 \eta h)` on average.

    Args:
      curvature: :math:`h > 0`; may be traced.
      noise: standard deviation :math:`\sigma \ge 0` of the Gaussian noise added to
        each entry of the gradient (not to the loss); may be traced.
      init_scale: :math:`s > 0`, the scale of the start; may be traced.
      dim: number :math:`d` of weights; static.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape ``(dim,)``.

    Raises:
      TypeError: if an argument is not a single number, or ``dim`` not an int.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.quadratic()
      >>> float(problem.loss(jnp.array([3.0, -4.0]), jax.random.key(0)))
      25.0
      >>> problem.facts["stable_rate"]
      1.0
    """
    curvature = number("curvature", curvature, above=0)
    spectrum = curvature * jnp.ones(size("dim", dim))
    return _bowl(spectrum, curvature, noise, init_scale, name="quadratic", steps=200)


def ill_conditioned_quadratic(
    condition_number: ArrayLike = 100.0,
    curvature: ArrayLike = 2.0,
    noise: ArrayLike = 0.0,
    init_scale: ArrayLike = 5.0,
    *,
    dim: int = 10,
) -> Problem:
    r"""A bowl that is steep in one direction and shallow in another.

    .. math:: L(w) = \frac12 \sum_{i=0}^{d-1} h_i w_i^2, \qquad
        h_i = h\, \kappa^{-i/(d-1)}, \qquad w_i = \pm s\, u_i \text{ at the start}

    as in :func:`quadratic`, with curvatures from :math:`h` down to :math:`h/\kappa`.
    Gradient descent diverges if its rate is above :math:`2/h`, and below that needs a
    number of steps proportional to :math:`\kappa` for the shallowest direction.

    Args:
      condition_number: :math:`\kappa \ge 1`, largest over smallest curvature; may be
        traced.
      curvature: :math:`h > 0`, the largest curvature; may be traced.
      noise: standard deviation of the Gaussian noise added to each entry of the
        gradient (not to the loss), at least 0; may be traced.
      init_scale: :math:`s > 0`, the scale of the start; may be traced.
      dim: number :math:`d` of weights; static.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape ``(dim,)``.

    Raises:
      TypeError: if an argument is not a single number, or ``dim`` not an int.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.ill_conditioned_quadratic(100.0, dim=2)
      >>> float(problem.loss(jnp.array([1.0, 10.0]), jax.random.key(0)))
      2.0
      >>> problem.facts["stable_rate"]
      1.0
    """
    condition_number = number("condition_number", condition_number, at_least=1)
    curvature = number("curvature", curvature, above=0)
    exponents = jnp.linspace(0.0, 1.0, size("dim", dim))
    spectrum = curvature * condition_number**-exponents
    name = "ill_conditioned_quadratic"
    return _bowl(spectrum, curvature, noise, init_scale, name=name, steps=500)


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
    init_spread = number("init_spread", init_spread, at_least=0)

    def init(key: jax.Array) -> jax.Array:
        offset = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return jnp.array([-1.2, 1.0]) + init_spread * offset

    def loss(w: jax.Array) -> jax.Array:
        side = w[1] - jnp.square(w[0])
        return jnp.square(1 - w[0]) + _like(w, steepness) * jnp.square(side)

    half_trace = 1 + 5 * steepness
    sharpness = half_trace + (half_trace**2 - 4 * steepness) ** 0.5
    # The first gradient is (-2.16 b, -0.88 b), but for its small part without b.
    facts = _ranges(2 / sharpness, 2.33 * steepness) | {
        "name": "rosenbrock",
        "optimum": 0.0,
        "minimizer": jnp.ones(2),
        "steps": 2000,
        "target_loss": 0.1,
    }
    return Problem(init, _with_gradient_noise(loss, noise), facts=facts)


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
        delta = _like(w, width)
        wall = _like(w, steepness) * _rounded(jnp.maximum(w[0], 0), delta)
        return _rounded(w[0], delta) + wall + _rounded(w[1], jnp.ones_like(delta))

    facts = _ranges(width, 10.0) | {
        "name": "cliff",
        "optimum": 0.0,
        "minimizer": jnp.zeros(2),
        "steps": 200,
        "target_loss": 0.1,
    }
    return Problem(init, _with_gradient_noise(loss, noise), facts=facts)


def deep_linear_chain(
    init_scale: ArrayLike = 1.3,
    target: ArrayLike = 1.0,
    noise: ArrayLike = 0.0,
    *,
    depth: int = 10,
) -> Problem:
    r"""A deep linear network of width one: a product of weights fits a number.

    .. math:: L(w) = \tfrac12 \Big( \prod_{l=1}^{D} w_l - t \Big)^2, \qquad
        w_l = s\, u_l \text{ at the start,} \quad u_l \sim U(0.9, 1.1)

    Repeated products make plateaus and cliffs: the first gradients grow as
    :math:`s^{2D-1}` if :math:`s > 1` and vanish as :math:`s^{D-1}` if :math:`s < 1`.
    Of all the optima, the one with equal weights is the least curved,
    :math:`D\, t^{2-2/D}`; with :math:`p = \max(s^D, t)`, about
    :math:`D\, p^{2-2/D}` is the largest curvature on the way there.

    Args:
      init_scale: :math:`s > 0`, the size of the first weights; may be traced.
      target: :math:`t > 0`; may be traced.
      noise: standard deviation of the Gaussian noise added to each entry of the
        gradient (not to the loss), at least 0; may be traced.
      depth: number :math:`D` of weights; static.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape
      ``(depth,)``.

    Raises:
      TypeError: if an argument is not a single number, or ``depth`` not an int.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.deep_linear_chain(depth=3)
      >>> float(problem.loss(jnp.array([1.0, 2.0, 2.0]), jax.random.key(0)))
      4.5

    Source: Goodfellow, Bengio and Courville, Deep Learning, 2016, section 8.2.4; Saxe,
    McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning in
    deep linear neural networks, 2014.
    """
    init_scale = number("init_scale", init_scale, above=0)
    target = number("target", target, above=0)
    depth = size("depth", depth)

    def init(key: jax.Array) -> jax.Array:
        return init_scale * jax.random.uniform(key, (depth,), minval=0.9, maxval=1.1)

    def loss(w: jax.Array) -> jax.Array:
        return jnp.square(jnp.prod(w) - _like(w, target)) / 2

    start = init_scale**depth
    gap: Any = abs(start - target)
    product = (start + target + gap) / 2  # the larger of the two, traced or not
    stable_rate = 2 / (depth * product ** (2 - 2 / depth))
    facts = _ranges(stable_rate, depth**0.5 * product**2 / init_scale) | {
        "name": "deep_linear_chain",
        "optimum": 0.0,
        "minimizer": jnp.full((depth,), target ** (1 / depth)),
        "steps": 200,
        "target_loss": 1e-3 * target**2,
    }
    return Problem(init, _with_gradient_noise(loss, noise), facts=facts)


def _bowl(
    spectrum: jax.Array,
    curvature: Number,
    noise: ArrayLike,
    init_scale: ArrayLike,
    *,
    name: str,
    steps: int,
) -> Problem:
    """The quadratic with these curvatures, of which ``curvature`` is the largest."""
    noise = number("noise", noise, at_least=0)
    init_scale = number("init_scale", init_scale, above=0)
    (dim,) = spectrum.shape

    def init(key: jax.Array) -> jax.Array:
        distance = jax.random.uniform(key, (dim,), minval=0.1, maxval=1.0)
        return init_scale * jnp.resize(jnp.array([1.0, -1.0]), (dim,)) * distance

    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum(_like(w, spectrum / 2) * jnp.square(w))

    norm = curvature * init_scale
    facts = _ranges(2 / curvature, norm) | {
        "name": name,
        "optimum": 0.0,
        "minimizer": jnp.zeros(dim),
        "steps": steps,
        # The noise's part is what a rate of 1 % of the largest would leave, doubled.
        "target_loss": 1e-3 * norm * init_scale + 0.01 * dim * noise**2 / curvature,
    }
    return Problem(init, _with_gradient_noise(loss, noise), facts=facts)


def _rounded(x: jax.Array, width: jax.Array) -> jax.Array:
    """The absolute value, rounded off around zero over ``width``."""
    return jnp.sqrt(jnp.square(x) + jnp.square(width)) - width


def _like(w: jax.Array, value: ArrayLike) -> jax.Array:
    """The value in the dtype of the weights, which the caller may have changed."""
    return jax.lax.convert_element_type(value, w.dtype)


def _ranges(stable_rate: Number, norm: Number) -> dict[str, Any]:
    """The ranges worth a sweep, around a rate and below the norm of a gradient."""
    return {
        "stable_rate": stable_rate,
        "peak_value": (0.01 * stable_rate, 100 * stable_rate),
        "max_norm": (0.001 * norm, 10 * norm),
    }


def _with_gradient_noise(
    loss: Callable[[jax.Array], jax.Array], noise: ArrayLike
) -> Loss:
    """The loss, with ``noise`` times a standard normal draw added to its gradient."""
    noise = number("noise", noise, at_least=0)
    if isinstance(noise, float) and noise == 0:
        return lambda params, key: loss(params)

    def noisy(params: jax.Array, key: jax.Array) -> jax.Array:
        # The difference is zero, and its derivative is the identity.
        difference = params - jax.lax.stop_gradient(params)
        draw = jax.random.normal(key, params.shape, params.dtype)
        return loss(params) + _like(params, noise) * jnp.vdot(draw, difference)

    return noisy
