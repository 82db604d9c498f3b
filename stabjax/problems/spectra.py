"""Quadratics with the spectrum of a deep network, and of random data."""

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._arguments import as_integer, as_scalar, is_concrete
from stabjax._train.problem import Problem
from stabjax._types import Number
from stabjax.problems.formulas import Scalar, formula_problem, like, sweep_ranges


def quadratic_deep(
    noise: Number = 0.05, init_scale: Number = 1.0, *, dim: int = 100
) -> Problem:
    """Quadratic with the curvatures of a deep network: many small, a few large.

        L(w) = 1/2 w' Q w,  g = Q (w - sigma xi),  xi_i ~ N(0, 1)

    Nine tenths of the eigenvalues of `Q` are drawn from `U(0, 1)`, the others from
    `U(30, 60)`, and its eigenvectors form a random rotation. Both are drawn once and
    are the same in every call. The start is `s N(0, 1)`. Each step sees the bowl with
    its center moved by `sigma xi`, as with a minibatch: the noise is largest where the
    bowl is steepest. Learning rates that make progress along the shallow directions pay
    for it along the steep ones.

    Args:
      noise: shift `sigma` of the center in each direction, >= 0. The default is close
        to that of 128 examples in DeepOBS. **Traceable.**
      init_scale: scale `s` of the start, > 0. **Traceable.**
      dim: number of weights, >= 1. **Static.**

    Returns:
      A `Problem` whose params are an array of shape `(dim,)`.

    Raises:
      TypeError: an argument is not a single number, or `dim` is not an integer.
      ValueError: an argument is out of range. A traced one gives NaN instead.

    Example:
      >>> import stabjax
      >>> problem = stabjax.problems.quadratic_deep()
      >>> 2 / 60 < problem.metadata["stable_rate"] < 2 / 30
      True

    References:
      Schneider, Balles and Hennig, *DeepOBS: a deep learning optimizer benchmark
      suite*, 2019, whose problem of this name has noise in the loss and a fixed start,
      https://arxiv.org/abs/1903.05499
    """
    noise = as_scalar("noise", noise, ">= 0")
    init_scale = as_scalar("init_scale", init_scale, "> 0")
    dim = as_integer("dim", dim)
    rng = np.random.default_rng(42)
    steep = max(1, dim // 10)
    eigenvalues = np.append(rng.uniform(0, 1, dim - steep), rng.uniform(30, 60, steep))
    rotation, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    hessian = np.asarray((rotation * eigenvalues) @ rotation.T, np.float32)
    metadata = {
        "name": "quadratic_deep",
        "steps": 1000,
        # The noise's part is about what 2 % of the largest stable rate leaves.
        "target_loss": 2e-3 * dim * init_scale**2 + 2 * dim * noise**2,
    }
    return _matrix_bowl(hessian, float(eigenvalues.max()), noise, init_scale, metadata)


def random_quadratic(
    problem_seed: Number = 0,
    noise: Number = 0.0,
    init_scale: Number = 1.0,
    *,
    dim: int = 20,
    examples: int = 40,
) -> Problem:
    """Linear regression on random data, a different quadratic for each problem seed.

        L(w) = 1/(2 n) |A w|^2,  A_ij ~ N(0, 1)
        g = H (w - sigma xi),  H = A' A / n,  xi_i ~ N(0, 1)

    from `w ~ s N(0, 1)`. With `n` examples of `d` inputs, the eigenvalues of `H` lie
    about `(1 +- sqrt(d / n))^2` (Marchenko and Pastur); if `n < d`, some are 0. A sweep
    over `problem_seed` shows whether a method works on quadratics in general or on one
    of them.

    Args:
      problem_seed: whole number in [0, 2^24] from which `A` is drawn. **Traceable.**
      noise: `sigma`, >= 0, as in `quadratic_deep`. **Traceable.**
      init_scale: scale `s` of the start, > 0. **Traceable.**
      dim: number `d` of weights, >= 1. **Static.**
      examples: number `n` of rows of `A`, >= 1. **Static.**

    Returns:
      A `Problem` whose params are an array of shape `(dim,)`.

    Raises:
      TypeError: an argument is not a single number, or a size is not an integer.
      ValueError: an argument is out of range, or `problem_seed` is not a whole number.
        A traced one out of range gives NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> def rate(seed):
      ...     return stabjax.problems.random_quadratic(seed).metadata["stable_rate"]
      >>> rates = jax.vmap(rate)(jnp.arange(100))
      >>> [round(float(f(rates)), 1) for f in (jnp.min, jnp.median, jnp.max)]
      [0.6, 0.8, 0.9]

    References:
      Paquette et al., *SGD in the large: average-case analysis, asymptotics, and
      stepsize criticality*, 2021, https://arxiv.org/abs/2102.04396
    """
    problem_seed = as_scalar("problem_seed", problem_seed, ">= 0")
    if isinstance(problem_seed, float) and not (
        problem_seed.is_integer() and problem_seed <= 2**24
    ):
        # Beyond 2^24, float32 does not hold every integer.
        raise ValueError(
            "problem_seed must be a whole number in [0, 2**24], got "
            f"{problem_seed:.12g}."
        )
    noise = as_scalar("noise", noise, ">= 0")
    init_scale = as_scalar("init_scale", init_scale, "> 0")
    shape = as_integer("examples", examples), as_integer("dim", dim)

    key = jax.random.key(jnp.asarray(problem_seed).astype(jnp.uint32))
    data = jax.random.normal(key, shape) + 0 * problem_seed  # NaN if the seed is NaN
    hessian = jnp.einsum("ni,nj->ij", data, data) / examples
    largest = jnp.linalg.eigvalsh(hessian)[-1]
    curvature = float(largest) if is_concrete(largest) else largest
    metadata = {
        "name": "random_quadratic",
        "steps": 500,
        "target_loss": 1e-3 * dim * init_scale**2 + 0.1 * dim * noise**2,
    }
    return _matrix_bowl(hessian, curvature, noise, init_scale, metadata)


def _matrix_bowl(
    hessian: jax.Array | np.ndarray,
    curvature: Scalar,
    noise: Scalar,
    init_scale: Scalar,
    metadata: dict[str, object],
) -> Problem:
    """Returns the quadratic of a matrix, `curvature` being its largest eigenvalue."""
    dim = len(hessian)

    def init(key: jax.Array) -> jax.Array:
        return init_scale * jax.random.normal(key, (dim,))

    def loss(w: jax.Array) -> jax.Array:
        return jnp.vdot(w, like(w, hessian) @ w) / 2

    def draw(key: jax.Array, w: jax.Array) -> jax.Array:
        return like(w, hessian) @ jax.random.normal(key, w.shape, w.dtype)

    norm = curvature * init_scale * (dim / 10) ** 0.5
    metadata |= sweep_ranges(2 / curvature, norm) | {"minimizer": jnp.zeros(dim)}
    return formula_problem(init, loss, noise, metadata, draw)
