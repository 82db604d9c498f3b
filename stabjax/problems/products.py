"""Products of weights, which have plateaus, cliffs and saddle points."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._arguments import as_integer, as_scalar
from stabjax._train.problem import Problem
from stabjax._types import Number
from stabjax.problems.formulas import (
    Scalar,
    formula_problem,
    larger,
    like,
    sweep_ranges,
)


def deep_linear_chain(
    init_scale: Number = 1.3,
    target: Number = 1.0,
    noise: Number = 0.0,
    *,
    depth: int = 10,
) -> Problem:
    """Deep linear network of width one.

        L(w) = 1/2 (w_1 w_2 ... w_D - t)^2

    The initial weights are `w_l = s u_l`, where `u_l ~ U(0.9, 1.1)`. The loss has
    plateaus and cliffs. The initial gradient grows as `s^(2 D - 1)` if `s > 1` and
    vanishes as `s^(D - 1)` if `s < 1`. The optimum with equal weights has the smallest
    curvature of all optima, `D t^(2 - 2 / D)`. On the path to this optimum, the
    curvature is at most about `D p^(2 - 2 / D)`, where `p = max(s^D, t)`.

    Args:
      init_scale: scale `s` of the initial weights, > 0. **Traceable.**
      target: target value `t` of the product, > 0. **Traceable.**
      noise: standard deviation of the Gaussian noise added to each element of the
        gradient (not to the loss), >= 0. **Traceable.**
      depth: number `D` of weights, >= 1. **Static.**

    Returns:
      A `Problem` whose parameters are an array of shape `(depth,)`.

    Raises:
      TypeError: If an argument is not a scalar or `depth` is not an integer.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.deep_linear_chain(depth=3)
      >>> float(problem.loss(jnp.array([1.0, 2.0, 2.0]), jax.random.key(0)))
      4.5

    References:
      Goodfellow, Bengio and Courville, *Deep Learning*, 2016, section 8.2.4,
      https://www.deeplearningbook.org

      Saxe, McClelland and Ganguli, *Exact solutions to the nonlinear dynamics of
      learning in deep linear neural networks*, 2014, https://arxiv.org/abs/1312.6120
    """
    init_scale = as_scalar("init_scale", init_scale, "> 0")
    target = as_scalar("target", target, "> 0")
    depth = as_integer("depth", depth)

    def init(key: jax.Array) -> jax.Array:
        return init_scale * jax.random.uniform(key, (depth,), minval=0.9, maxval=1.1)

    def loss(w: jax.Array) -> jax.Array:
        return jnp.square(jnp.prod(w) - like(w, target)) / 2

    metadata = {"name": "deep_linear_chain", "steps": 200}
    metadata |= _product_metadata(init_scale, init_scale, target, depth, depth)
    return formula_problem(init, loss, noise, metadata)


def tied_product(
    init_scale: Number = 1.3,
    target: Number = 1.0,
    noise: Number = 0.0,
    init_spread: Number = 0.1,
    *,
    depth: int = 10,
) -> Problem:
    """Deep linear network of width one whose layers share a single weight.

        L(w) = 1/2 (w^D - t)^2

    The initial weight is `w = s u`, where `u ~ U(1 - r, 1 + r)`. The model corresponds
    to a linear recurrent network with one unit. The loss has a plateau where `|w| < 1`
    and a wall where `|w| > 1`. For `D = 10` and `t = 1`, the gradient
    `D w^(D - 1) (w^D - t)` is 5e6 at `w = 2` and -0.02 at `w = 0.5`. The curvature at
    the optimum is `D^2 t^(2 - 2 / D)`. On the path to the optimum, the curvature is at
    most about `D^2 p^(2 - 2 / D)`, where `p` is the larger of `t` and the initial
    `w^D`.

    Args:
      init_scale: scale `s` of the initial weight, > 0. **Traceable.**
      target: target value `t` of the product, > 0. **Traceable.**
      noise: standard deviation of the Gaussian noise added to the gradient (not to the
        loss), >= 0. **Traceable.**
      init_spread: relative spread `r` of the initial weight, >= 0. **Traceable.**
      depth: number of layers `D`, >= 1. **Static.**

    Returns:
      A `Problem` whose parameters are an array of shape `(1,)`.

    Raises:
      TypeError: If an argument is not a scalar or `depth` is not an integer.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> slope = jax.grad(stabjax.problems.tied_product().loss)
      >>> at = [slope(jnp.array([w]), jax.random.key(0)) for w in (0.5, 2.0)]
      >>> [round(float(g[0]), 2) for g in at]
      [-0.02, 5237760.0]

    References:
      Goodfellow, Bengio and Courville, *Deep Learning*, 2016, section 8.2.4,
      https://www.deeplearningbook.org
    """
    init_scale = as_scalar("init_scale", init_scale, "> 0")
    target = as_scalar("target", target, "> 0")
    init_spread = as_scalar("init_spread", init_spread, ">= 0")
    depth = as_integer("depth", depth)

    def init(key: jax.Array) -> jax.Array:
        offset = jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0)
        return init_scale * (1 + init_spread * offset)

    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(w**depth - like(w, target))) / 2

    farthest = init_scale * (1 + init_spread)
    metadata = {"name": "tied_product", "steps": 1000}
    metadata |= _product_metadata(init_scale, farthest, target, depth, 1)
    return formula_problem(init, loss, noise, metadata)


def deep_linear(
    init_scale: Number = 0.3,
    noise: Number = 0.0,
    *,
    depth: int = 3,
    dim: int = 4,
) -> Problem:
    """Deep linear network with whitened inputs, which learns one mode at a time.

        L(W) = 1/2 |W_D ... W_2 W_1 - A|_F^2,  A = diag(d, d - 1, ..., 1)

    The initial weights are drawn from `s N(0, 1 / d)`. Small initial weights are close
    to the saddle point at zero. The loss stays on a plateau until the strongest mode
    has been learned, and then drops to the next plateau. Stronger modes cause steeper
    drops. Among all optima, those with balanced layers have the smallest sharpness,
    `D d^(2 - 2 / D)`.

    Args:
      init_scale: scale `s` of the initial weights, > 0. **Traceable.**
      noise: standard deviation of the Gaussian noise added to each element of the
        gradient (not to the loss), >= 0. **Traceable.**
      depth: number of layers `D`, >= 1. **Static.**
      dim: width `d` of the layers, >= 1. **Static.**

    Returns:
      A `Problem` whose parameters are an array of shape `(depth, dim, dim)`, with the
      input layer at index 0.

    Raises:
      TypeError: If an argument is not a scalar or a size is not an integer.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.deep_linear(dim=2)
      >>> float(problem.loss(jnp.zeros((3, 2, 2)), jax.random.key(0)))
      2.5

    References:
      Saxe, McClelland and Ganguli, *Exact solutions to the nonlinear dynamics of
      learning in deep linear neural networks*, 2014, https://arxiv.org/abs/1312.6120
    """
    init_scale = as_scalar("init_scale", init_scale, "> 0")
    depth, dim = as_integer("depth", depth), as_integer("dim", dim)
    modes = np.arange(dim, 0, -1, dtype=np.float32)

    def init(key: jax.Array) -> jax.Array:
        normal = jax.random.normal(key, (depth, dim, dim))
        return init_scale * normal / math.sqrt(dim)

    def loss(w: jax.Array) -> jax.Array:
        product = functools.reduce(lambda below, layer: layer @ below, list(w))
        return jnp.sum(jnp.square(product - like(w, np.diag(modes)))) / 2

    layer = np.diag(modes ** (1 / depth))
    metadata = sweep_ranges(2 / (depth * dim ** (2 - 2 / depth)), float(dim) ** 2) | {
        "name": "deep_linear",
        "minimizer": jnp.broadcast_to(layer, (depth, dim, dim)),
        "steps": 1000,
        "target_loss": 0.1,
    }
    return formula_problem(init, loss, noise, metadata)


def _product_metadata(
    init_scale: Scalar, farthest: Scalar, target: Scalar, depth: int, weights: int
) -> dict[str, object]:
    """Returns the metadata for a product of `depth` factors.

    For `n` equal weights whose product `p` fits the target, the Hessian has rank one
    and the eigenvalue `depth^2 / n p^(2 - 2 / depth)`.
    """
    product = larger(_power(farthest, depth), target)
    first = larger(_power(init_scale, depth), target)
    curvature = depth**2 / weights * _power(product, 2 - 2 / depth)
    norm = depth / weights**0.5 * _power(first, 2) / init_scale
    return sweep_ranges(2 / curvature, norm) | {
        "minimizer": jnp.full((weights,), target ** (1 / depth)),
        "target_loss": 1e-3 * target**2,
    }


def _power(base: Scalar, exponent: float) -> Scalar:
    """Returns the power, or infinity where Python would raise an OverflowError."""
    try:
        return base**exponent
    except OverflowError:
        return math.inf
