"""Products of weights: plateaus, cliffs and saddles."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from stabjax._train.problem import Problem
from stabjax.problems.arguments import Number, larger, number, size
from stabjax.problems.noise import like, with_gradient_noise
from stabjax.problems.ranges import ranges


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
        return jnp.square(jnp.prod(w) - like(w, target)) / 2

    product = larger(_power(init_scale, depth), target)
    stable_rate = 2 / (depth * _power(product, 2 - 2 / depth))
    norm = depth**0.5 * _power(product, 2) / init_scale
    metadata = ranges(stable_rate, norm) | {
        "name": "deep_linear_chain",
        "optimum": 0.0,
        "minimizer": jnp.full((depth,), target ** (1 / depth)),
        "steps": 200,
        "target_loss": 1e-3 * target**2,
    }
    return Problem(init, with_gradient_noise(loss, noise), metadata=metadata)


def tied_product(
    init_scale: ArrayLike = 1.3,
    target: ArrayLike = 1.0,
    noise: ArrayLike = 0.0,
    init_spread: ArrayLike = 0.1,
    *,
    depth: int = 10,
) -> Problem:
    r"""One weight used in every layer: a recurrent network with nothing else in it.

    .. math:: L(w) = \tfrac12 (w^D - t)^2, \qquad w = s\, u \text{ at the start,} \quad
        u \sim U(1 - r, 1 + r)

    A plateau where :math:`|w| < 1`, a wall where it is above: the gradient
    :math:`D w^{D-1} (w^D - t)` is :math:`5 \cdot 10^6` at :math:`w = 2` and -0.02 at
    0.5, for :math:`D = 10` and :math:`t = 1`. At the optimum the curvature is
    :math:`D^2 t^{2-2/D}`; with :math:`p` the larger of :math:`t` and the first product,
    about :math:`D^2 p^{2-2/D}` is the largest on the way there.

    Args:
      init_scale: :math:`s > 0`, the first weight; may be traced.
      target: :math:`t > 0`; may be traced.
      noise: standard deviation of the Gaussian noise added to the gradient (not to the
        loss), at least 0; may be traced.
      init_spread: :math:`r \ge 0`, the reach of the random start; may be traced.
      depth: number :math:`D` of times that the weight is used; static.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape ``(1,)``.

    Raises:
      TypeError: if an argument is not a single number, or ``depth`` not an int.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> slope = jax.grad(stabjax.problems.tied_product().loss)
      >>> at = [slope(jnp.array([w]), jax.random.key(0)) for w in (0.5, 2.0)]
      >>> [round(float(g[0]), 2) for g in at]
      [-0.02, 5237760.0]

    Source: Goodfellow, Bengio and Courville, Deep Learning, 2016, section 8.2.4.
    """
    init_scale = number("init_scale", init_scale, above=0)
    target = number("target", target, above=0)
    init_spread = number("init_spread", init_spread, at_least=0)
    depth = size("depth", depth)

    def init(key: jax.Array) -> jax.Array:
        offset = jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0)
        return init_scale * (1 + init_spread * offset)

    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(w**depth - like(w, target))) / 2

    product = larger(_power(init_scale * (1 + init_spread), depth), target)
    stable_rate = 2 / (depth**2 * _power(product, 2 - 2 / depth))
    first = larger(_power(init_scale, depth), target)
    norm = depth * _power(first, 2) / init_scale
    metadata = ranges(stable_rate, norm) | {
        "name": "tied_product",
        "optimum": 0.0,
        "minimizer": jnp.full((1,), target ** (1 / depth)),
        "steps": 1000,
        "target_loss": 1e-3 * target**2,
    }
    return Problem(init, with_gradient_noise(loss, noise), metadata=metadata)


def deep_linear(
    init_scale: ArrayLike = 0.3,
    noise: ArrayLike = 0.0,
    *,
    depth: int = 3,
    dim: int = 4,
) -> Problem:
    r"""A deep linear network on white inputs: saddles, and one mode learnt at a time.

    .. math:: L(W) = \tfrac12 \big\| W_D \cdots W_1 - A \big\|_F^2, \qquad
        (W_l)_{ij} \sim s\, N(0, 1/d) \text{ at the start}

    with :math:`A = \mathrm{diag}(d, d - 1, \dots, 1)`. Small weights are close to the
    saddle at zero: the loss stays on a plateau until the strongest mode has grown, then
    falls, and the next plateau begins. Between two plateaus it is as steep as the mode
    is strong. The least curved optimum, with balanced layers, has the sharpness
    :math:`D\, d^{2-2/D}`.

    Args:
      init_scale: :math:`s > 0`; may be traced.
      noise: standard deviation of the Gaussian noise added to each entry of the
        gradient (not to the loss), at least 0; may be traced.
      depth: number :math:`D` of matrices; static.
      dim: their width :math:`d`; static.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape
      ``(depth, dim, dim)``, first layer first.

    Raises:
      TypeError: if an argument is not a single number, or a size not an int.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.deep_linear(dim=2)
      >>> float(problem.loss(jnp.zeros((3, 2, 2)), jax.random.key(0)))
      2.5

    Source: Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of
    learning in deep linear neural networks, 2014.
    """
    init_scale = number("init_scale", init_scale, above=0)
    depth, dim = size("depth", depth), size("dim", dim)
    modes = np.arange(dim, 0, -1, dtype=np.float32)

    def init(key: jax.Array) -> jax.Array:
        normal = jax.random.normal(key, (depth, dim, dim))
        return init_scale * normal / math.sqrt(dim)

    def loss(w: jax.Array) -> jax.Array:
        product: Any = functools.reduce(lambda below, layer: layer @ below, w)
        return jnp.sum(jnp.square(product - like(w, np.diag(modes)))) / 2

    layer = np.diag(modes ** (1 / depth))
    metadata = ranges(2 / (depth * dim ** (2 - 2 / depth)), float(dim) ** 2) | {
        "name": "deep_linear",
        "optimum": 0.0,
        "minimizer": jnp.broadcast_to(layer, (depth, dim, dim)),
        "steps": 1000,
        "target_loss": 0.1,
    }
    return Problem(init, with_gradient_noise(loss, noise), metadata=metadata)


def _power(base: Number, exponent: float) -> Number:
    """The power; infinite where Python would raise, as arrays do not."""
    try:
        power: Number = base**exponent
    except OverflowError:
        return math.inf
    return power
