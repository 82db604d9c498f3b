"""Quadratic functions with the spectra of deep networks and of random data."""

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
    """Quadratic function with the eigenvalue spectrum of a deep network.

        L(w) = 1/2 w' Q w,  g = Q (w - sigma xi),  xi_i ~ N(0, 1)

    90% of the eigenvalues of `Q` are drawn from `U(0, 1)` and 10% from `U(30, 60)`. The
    eigenvectors form a random rotation. `Q` is the same in every call. The initial
    weights are drawn from `s N(0, 1)`. To model minibatch noise, each step shifts the
    center of the bowl by `sigma xi`, so the noise is largest in the steepest
    directions. Large learning rates speed up convergence in the shallow directions but
    amplify the noise in the steep directions.

    Args:
      noise: standard deviation `sigma` of the shift in each direction, >= 0. The
        default approximates a minibatch of 128 examples in DeepOBS. **Traceable.**
      init_scale: scale `s` of the initial weights, > 0. **Traceable.**
      dim: number of weights, >= 1. **Static.**

    Returns:
      A `Problem` whose parameters are an array of shape `(dim,)`.

    Raises:
      TypeError: If an argument is not a scalar or `dim` is not an integer.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

    Example:
      >>> import stabjax
      >>> problem = stabjax.problems.quadratic_deep()
      >>> 2 / 60 < problem.metadata["stable_rate"] < 2 / 30
      True

    References:
      Schneider, Balles and Hennig, *DeepOBS: a deep learning optimizer benchmark
      suite*, 2019, https://arxiv.org/abs/1903.05499. The problem of the same name in
      DeepOBS adds noise to the loss and has fixed initial weights.
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
        # About the stationary loss due to noise at 2% of the largest stable rate.
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
    """Linear regression on random data that depend on a problem seed.

        L(w) = 1/(2 n) |A w|^2,  A_ij ~ N(0, 1)
        g = H (w - sigma xi),  H = A' A / n,  xi_i ~ N(0, 1)

    The initial weights are drawn from `s N(0, 1)`. For `n` examples with `d` inputs,
    the eigenvalues of `H` lie approximately between `(1 - sqrt(d / n))^2` and
    `(1 + sqrt(d / n))^2` (Marchenko and Pastur). If `n < d`, some eigenvalues are 0.
    Sweep over `problem_seed` to test whether a result holds for random quadratics in
    general.

    Args:
      problem_seed: integer seed for the matrix `A`, in [0, 2^24]. **Traceable.**
      noise: standard deviation `sigma` of the shift in each direction, as in
        `quadratic_deep`, >= 0. **Traceable.**
      init_scale: scale `s` of the initial weights, > 0. **Traceable.**
      dim: number of weights `d`, >= 1. **Static.**
      examples: number of examples `n`, which are the rows of `A`, >= 1. **Static.**

    Returns:
      A `Problem` whose parameters are an array of shape `(dim,)`.

    Raises:
      TypeError: If an argument is not a scalar or a size is not an integer.
      ValueError: If an argument is out of range or `problem_seed` is not an integer.
        Traced values out of range yield NaN instead.

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
        # float32 cannot represent all integers above 2^24.
        raise ValueError(
            f"problem_seed must be an integer in [0, 2**24], got {problem_seed:.12g}."
        )
    noise = as_scalar("noise", noise, ">= 0")
    init_scale = as_scalar("init_scale", init_scale, "> 0")
    shape = as_integer("examples", examples), as_integer("dim", dim)

    key = jax.random.key(jnp.asarray(problem_seed).astype(jnp.uint32))
    data = jax.random.normal(key, shape) + 0 * problem_seed  # propagates NaN
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
    """Returns a quadratic problem; `curvature` is the largest eigenvalue."""
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
