"""Quadratic bowls whose optimum and largest stable learning rate are known."""

import jax
import jax.numpy as jnp

from stabjax._arguments import as_integer, as_scalar
from stabjax._train.problem import Problem
from stabjax._types import Number
from stabjax.problems.formulas import (
    Draw,
    Scalar,
    formula_problem,
    like,
    normal,
    student_t,
    sweep_ranges,
)


def quadratic(
    curvature: Number = 2.0,
    noise: Number = 0.0,
    init_scale: Number = 5.0,
    *,
    dim: int = 2,
) -> Problem:
    """Quadratic bowl with one curvature; by default `L = w_1^2 + w_2^2`.

        L(w) = h/2 sum_i w_i^2
        w_i = s u_i or -s u_i at the start, in turn,  u_i ~ U(0.1, 1)

    with curvature `h` and scale `s`. The start stays away from 0, so that no seed
    begins at the optimum. Gradient descent with learning rate `eta` multiplies `w` by
    `1 - eta h`, so it diverges if `eta > 2 / h`. Below that, with noise of standard
    deviation `sigma`, the mean loss settles at `d eta sigma^2 / (4 - 2 eta h)`.

    Args:
      curvature: `h`, > 0. **Traceable.**
      noise: standard deviation `sigma` of the Gaussian noise added to each element of
        the gradient (not to the loss), >= 0. **Traceable.**
      init_scale: scale `s` of the start, > 0. **Traceable.**
      dim: number `d` of weights, >= 1. **Static.**

    Returns:
      A `Problem` whose params are an array of shape `(dim,)`.

    Raises:
      TypeError: an argument is not a single number, or `dim` is not an integer.
      ValueError: an argument is out of range. A traced one gives NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.quadratic()
      >>> float(problem.loss(jnp.array([3.0, -4.0]), jax.random.key(0)))
      25.0
      >>> problem.metadata["stable_rate"]
      1.0

    References:
      Goodfellow, Bengio and Courville, *Deep Learning*, 2016, section 4.3,
      https://www.deeplearningbook.org
    """
    curvature = as_scalar("curvature", curvature, "> 0")
    spectrum = curvature * jnp.ones(as_integer("dim", dim))
    metadata = {"name": "quadratic", "steps": 200}
    return _bowl(spectrum, curvature, noise, init_scale, metadata)


def ill_conditioned_quadratic(
    condition_number: Number = 100.0,
    curvature: Number = 2.0,
    noise: Number = 0.0,
    init_scale: Number = 5.0,
    *,
    dim: int = 10,
) -> Problem:
    """Quadratic bowl that is steep in one direction and shallow in another.

        L(w) = 1/2 sum_i h_i w_i^2,  h_i = h kappa^(-i / (d - 1)),  i = 0 ... d - 1

    with curvatures from `h` down to `h / kappa` and the start of `quadratic`. Gradient
    descent diverges if its learning rate is above `2 / h`. Below that, the shallowest
    direction needs a number of steps proportional to `kappa`.

    Args:
      condition_number: largest over smallest curvature, `kappa`, >= 1. **Traceable.**
      curvature: the largest curvature `h`, > 0. **Traceable.**
      noise: standard deviation of the Gaussian noise added to each element of the
        gradient (not to the loss), >= 0. **Traceable.**
      init_scale: scale of the start, > 0. **Traceable.**
      dim: number `d` of weights, >= 1. **Static.**

    Returns:
      A `Problem` whose params are an array of shape `(dim,)`.

    Raises:
      TypeError: an argument is not a single number, or `dim` is not an integer.
      ValueError: an argument is out of range. A traced one gives NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.ill_conditioned_quadratic(100.0, dim=2)
      >>> float(problem.loss(jnp.array([1.0, 10.0]), jax.random.key(0)))
      2.0
      >>> problem.metadata["stable_rate"]
      1.0

    References:
      Goodfellow, Bengio and Courville, *Deep Learning*, 2016, section 8.2.1,
      https://www.deeplearningbook.org
    """
    condition_number = as_scalar("condition_number", condition_number, ">= 1")
    curvature = as_scalar("curvature", curvature, "> 0")
    exponents = jnp.linspace(0.0, 1.0, as_integer("dim", dim))
    spectrum = curvature * condition_number**-exponents
    metadata = {"name": "ill_conditioned_quadratic", "steps": 500}
    return _bowl(spectrum, curvature, noise, init_scale, metadata)


def heavy_tailed_quadratic(
    tail: Number = 1.5,
    noise: Number = 1.0,
    init_scale: Number = 5.0,
    *,
    dim: int = 10,
) -> Problem:
    """Quadratic bowl whose gradient has noise of infinite variance.

        L(w) = 1/2 sum_i w_i^2
        g_i = w_i + sigma xi_i,  xi_i ~ Student's t with nu degrees of freedom

    from the start of `quadratic`. The moments of `xi` of order `nu` and above are
    infinite, and for `nu <= 2` so is its variance. A single step can then undo many,
    and the mean loss of gradient descent at a constant learning rate is infinite,
    although most runs look fine most of the time. Clipping bounds the effect of one
    step, at the price of a bias.

    Args:
      tail: degrees of freedom `nu`, >= 1; 1 is the Cauchy distribution, and large
        values approach the normal one. **Traceable.**
      noise: scale `sigma` of the noise added to each element of the gradient (not to
        the loss), >= 0. **Traceable.**
      init_scale: scale of the start, > 0. **Traceable.**
      dim: number of weights, >= 1. **Static.**

    Returns:
      A `Problem` whose params are an array of shape `(dim,)`. Noise is drawn in
      float32, so no draw is above `sqrt(nu) 2^(23 / nu)`.

    Raises:
      TypeError: an argument is not a single number, or `dim` is not an integer.
      ValueError: an argument is out of range. A traced one gives NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.heavy_tailed_quadratic(dim=2)
      >>> float(problem.loss(jnp.array([3.0, -4.0]), jax.random.key(0)))
      12.5

    References:
      Zhang et al., *Why are adaptive methods good for attention models?*, 2020,
      https://arxiv.org/abs/1912.03194
    """
    draw = student_t(as_scalar("tail", tail, ">= 1"))
    spectrum = jnp.ones(as_integer("dim", dim))
    # The target is twice what clipping at 1 reaches at a rate of 0.03, measured.
    metadata = {"name": "heavy_tailed_quadratic", "steps": 2000}
    return _bowl(spectrum, 1.0, noise, init_scale, metadata, draw)


def _bowl(
    spectrum: jax.Array,
    curvature: Scalar,
    noise: Number,
    init_scale: Number,
    metadata: dict[str, object],
    draw: Draw = normal,
) -> Problem:
    """Returns the quadratic with these curvatures, `curvature` being the largest."""
    noise = as_scalar("noise", noise, ">= 0")
    init_scale = as_scalar("init_scale", init_scale, "> 0")
    (dim,) = spectrum.shape

    def init(key: jax.Array) -> jax.Array:
        distance = jax.random.uniform(key, (dim,), minval=0.1, maxval=1.0)
        return init_scale * jnp.resize(jnp.array([1.0, -1.0]), (dim,)) * distance

    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum(like(w, spectrum / 2) * jnp.square(w))

    norm = curvature * init_scale
    metadata |= sweep_ranges(2 / curvature, norm * max(1.0, dim / 10) ** 0.5) | {
        "minimizer": jnp.zeros(dim),
        # Twice the noise's part at 1 % of the largest stable rate.
        "target_loss": 1e-3 * norm * init_scale + 0.01 * dim * noise**2 / curvature,
    }
    return formula_problem(init, loss, noise, metadata, draw)
