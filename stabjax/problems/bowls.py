"""Quadratic bowls: their optimum and their largest stable rate are known."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stabjax._train.problem import Problem
from stabjax.problems.arguments import Number, number, size
from stabjax.problems.noise import like, student_t, with_gradient_noise
from stabjax.problems.ranges import ranges


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
      >>> problem.metadata["stable_rate"]
      1.0

    Source: the two weights of the founding experiment, which `stabjax study` measures.
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
      >>> problem.metadata["stable_rate"]
      1.0

    Source: Goodfellow, Bengio and Courville, Deep Learning, 2016, section 8.2.1.
    """
    condition_number = number("condition_number", condition_number, at_least=1)
    curvature = number("curvature", curvature, above=0)
    exponents = jnp.linspace(0.0, 1.0, size("dim", dim))
    spectrum = curvature * condition_number**-exponents
    name = "ill_conditioned_quadratic"
    return _bowl(spectrum, curvature, noise, init_scale, name=name, steps=500)


def heavy_tailed_quadratic(
    tail: ArrayLike = 1.5,
    noise: ArrayLike = 1.0,
    init_scale: ArrayLike = 5.0,
    *,
    dim: int = 10,
) -> Problem:
    r"""A bowl whose gradient is seen through noise of infinite variance.

    .. math:: L(w) = \tfrac12 \sum_i w_i^2, \qquad
        g_i = w_i + \sigma\, \xi_i, \quad \xi_i \sim t_\nu

    with Student's t of :math:`\nu` degrees of freedom, whose moments of order
    :math:`\nu` and above are infinite. For :math:`\nu \le 2` so is the variance: now
    and then a single step undoes many, and the mean loss of gradient descent at a
    constant rate is infinite, though most of its trainings look well most of the time.
    Clipping bounds what one step can do, at the price of a bias.

    Args:
      tail: :math:`\nu \ge 1`, degrees of freedom: 1 is Cauchy's, :math:`\infty` would
        be normal; may be traced.
      noise: scale :math:`\sigma \ge 0` of the noise added to each entry of the gradient
        (not to the loss); may be traced.
      init_scale: :math:`s > 0`, the scale of the start, which is that of
        :func:`quadratic`; may be traced.
      dim: number of weights; static.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape ``(dim,)``.
      Noise is drawn in float32, so no draw is above :math:`\sqrt\nu\, 2^{23/\nu}`.

    Raises:
      TypeError: if an argument is not a single number, or ``dim`` not an int.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.heavy_tailed_quadratic(dim=2)
      >>> float(problem.loss(jnp.array([3.0, -4.0]), jax.random.key(0)))
      12.5

    Source: Zhang et al., Why are adaptive methods good for attention models?, 2020.
    """
    tail = number("tail", tail, at_least=1)
    noise = number("noise", noise, at_least=0)
    init_scale = number("init_scale", init_scale, above=0)
    dim = size("dim", dim)

    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(w)) / 2

    metadata = ranges(2.0, init_scale * max(1.0, dim / 10) ** 0.5) | {
        "name": "heavy_tailed_quadratic",
        "optimum": 0.0,
        "minimizer": jnp.zeros(dim),
        "steps": 2000,
        # What clipping at 1 reaches at a rate of 0.03, measured, about twice over.
        "target_loss": 0.01 * dim * noise**2 + 1e-3 * init_scale**2,
    }
    noisy = with_gradient_noise(loss, noise, student_t(tail))
    return Problem(_start(init_scale, dim), noisy, metadata=metadata)


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

    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum(like(w, spectrum / 2) * jnp.square(w))

    norm = curvature * init_scale
    metadata = ranges(2 / curvature, norm * max(1.0, dim / 10) ** 0.5) | {
        "name": name,
        "optimum": 0.0,
        "minimizer": jnp.zeros(dim),
        "steps": steps,
        # The noise's part is what a rate of 1 % of the largest would leave, doubled.
        "target_loss": 1e-3 * norm * init_scale + 0.01 * dim * noise**2 / curvature,
    }
    init = _start(init_scale, dim)
    return Problem(init, with_gradient_noise(loss, noise), metadata=metadata)


def _start(scale: Number, dim: int) -> Callable[[jax.Array], jax.Array]:
    """Weights of alternating signs, away from zero."""

    def init(key: jax.Array) -> jax.Array:
        distance = jax.random.uniform(key, (dim,), minval=0.1, maxval=1.0)
        return scale * jnp.resize(jnp.array([1.0, -1.0]), (dim,)) * distance

    return init
