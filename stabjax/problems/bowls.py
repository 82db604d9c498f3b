"""Quadratic bowls with a known optimum and a known largest stable learning rate."""

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
    """Isotropic quadratic bowl, by default `L = w_1^2 + w_2^2`.

        L(w) = h/2 sum_i w_i^2

    where `h` is the curvature. The initial weights are `w_i = (-1)^i s u_i`, where
    `u_i ~ U(0.1, 1)`, so no run is initialized at the optimum. Gradient descent with
    learning rate `eta` multiplies `w` by `1 - eta h` and diverges if `eta > 2 / h`. For
    smaller learning rates and gradient noise with standard deviation `sigma`, the mean
    loss converges to `d eta sigma^2 / (4 - 2 eta h)`.

    Args:
      curvature: the curvature `h`, > 0. **Traceable.**
      noise: standard deviation `sigma` of the Gaussian noise added to each element of
        the gradient (not to the loss), >= 0. **Traceable.**
      init_scale: scale `s` of the initial weights, > 0. **Traceable.**
      dim: number of weights `d`, >= 1. **Static.**

    Returns:
      A `Problem` whose parameters are an array of shape `(dim,)`.

    Raises:
      TypeError: If an argument is not a scalar or `dim` is not an integer.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

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
    """Quadratic bowl with curvatures that range from steep to shallow.

        L(w) = 1/2 sum_i h_i w_i^2,  h_i = h kappa^(-i / (d - 1)),  i = 0 ... d - 1

    The curvatures decrease from `h` to `h / kappa`. The weights are initialized as in
    `quadratic`. Gradient descent diverges if its learning rate exceeds `2 / h`. For
    smaller learning rates, the number of steps needed to converge in the shallowest
    direction is proportional to `kappa`.

    Args:
      condition_number: ratio `kappa` of the largest to the smallest curvature, >= 1.
        **Traceable.**
      curvature: the largest curvature `h`, > 0. **Traceable.**
      noise: standard deviation of the Gaussian noise added to each element of the
        gradient (not to the loss), >= 0. **Traceable.**
      init_scale: scale of the initial weights, > 0. **Traceable.**
      dim: number of weights `d`, >= 1. **Static.**

    Returns:
      A `Problem` whose parameters are an array of shape `(dim,)`.

    Raises:
      TypeError: If an argument is not a scalar or `dim` is not an integer.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

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
    """Quadratic bowl with heavy-tailed gradient noise.

        L(w) = 1/2 sum_i w_i^2
        g_i = w_i + sigma xi_i,  xi_i ~ Student's t with nu degrees of freedom

    The weights are initialized as in `quadratic`. All moments of `xi` of order `nu` and
    higher are infinite, including the variance if `nu <= 2`. In that case, a single
    step can undo the progress of many others, and gradient descent with a constant
    learning rate has an infinite mean loss, even though most runs have a small loss at
    most steps. Clipping limits the effect of each step but introduces a bias.

    Args:
      tail: degrees of freedom `nu`, >= 1. A value of 1 gives the Cauchy distribution,
        and large values approach the normal distribution. **Traceable.**
      noise: scale `sigma` of the noise added to each element of the gradient (not to
        the loss), >= 0. **Traceable.**
      init_scale: scale of the initial weights, > 0. **Traceable.**
      dim: number of weights, >= 1. **Static.**

    Returns:
      A `Problem` whose parameters are an array of shape `(dim,)`. The noise is sampled
      in float32, which limits `xi_i` to `sqrt(nu) 2^(23 / nu)`.

    Raises:
      TypeError: If an argument is not a scalar or `dim` is not an integer.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

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
    # Twice the loss measured with clipping at 1 and a learning rate of 0.03.
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
    """Returns a quadratic bowl; `curvature` is the largest of `curvatures`."""
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
        # Twice the stationary loss due to noise at 1% of the largest stable rate.
        "target_loss": 1e-3 * norm * init_scale + 0.01 * dim * noise**2 / curvature,
    }
    return formula_problem(init, loss, noise, metadata, draw)
