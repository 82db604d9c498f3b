"""Quadratics with the spectra of matrices: of a network's Hessian, and a random one."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from stabjax._train.problem import Problem
from stabjax.problems.arguments import Number, number, size
from stabjax.problems.noise import like, with_gradient_noise
from stabjax.problems.ranges import ranges


def quadratic_deep(
    noise: ArrayLike = 0.05, init_scale: ArrayLike = 1.0, *, dim: int = 100
) -> Problem:
    r"""A quadratic with the curvatures of a deep network: many small, a few large.

    .. math:: L(w) = \tfrac12 w^T Q w, \qquad g = Q\,(w - \sigma\, \xi), \quad
        \xi_i \sim N(0, 1)

    where nine tenths of the eigenvalues of :math:`Q` are drawn from :math:`U(0, 1)`,
    the others from :math:`U(30, 60)`, and its eigenvectors are a random rotation; both
    are drawn once and the same in every call. The start is :math:`s\, N(0, 1)`. Each
    step sees the bowl with its centre moved by :math:`\sigma \xi`, as a minibatch does:
    so noise is largest where the bowl is steepest, and the rates that make progress
    along the shallow directions pay for it along the others.

    Args:
      noise: :math:`\sigma \ge 0`, by which the centre moves in each direction; may be
        traced. The default is about that of 128 examples in the source.
      init_scale: :math:`s > 0`, the scale of the start; may be traced.
      dim: number of weights; static.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape ``(dim,)``.

    Raises:
      TypeError: if an argument is not a single number, or ``dim`` not an int.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import stabjax
      >>> problem = stabjax.problems.quadratic_deep()
      >>> 2 / 60 < problem.metadata["stable_rate"] < 2 / 30
      True

    Source: the problem of this name in Schneider, Balles and Hennig, DeepOBS: a deep
    learning optimizer benchmark suite, 2019, with a loss that is free of noise and a
    start that is drawn.
    """
    noise = number("noise", noise, at_least=0)
    init_scale = number("init_scale", init_scale, above=0)
    dim = size("dim", dim)
    rng = np.random.default_rng(42)
    steep = max(1, dim // 10)
    eigenvalues = np.append(rng.uniform(0, 1, dim - steep), rng.uniform(30, 60, steep))
    rotation, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    hessian = np.float32((rotation * eigenvalues) @ rotation.T)

    metadata = {
        "name": "quadratic_deep",
        "steps": 1000,
        # The noise's part is what 2 % of the largest rate would leave, about.
        "target_loss": 2e-3 * dim * init_scale**2 + 2 * dim * noise**2,
    }
    return _matrix_bowl(hessian, float(eigenvalues.max()), noise, init_scale, metadata)


def random_quadratic(
    problem_seed: ArrayLike = 0,
    noise: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
    *,
    dim: int = 20,
    examples: int = 40,
) -> Problem:
    r"""The quadratic of a linear regression on random data: another one for each seed.

    .. math:: L(w) = \frac1{2n} \|A w\|^2, \qquad A_{ij} \sim N(0, 1), \qquad
        g = H\,(w - \sigma\, \xi), \quad H = A^T A / n, \quad \xi_i \sim N(0, 1)

    from :math:`w \sim s\, N(0, 1)`. With :math:`n` examples of :math:`d` inputs the
    eigenvalues of :math:`H` lie about :math:`(1 \pm \sqrt{d/n})^2` (Marchenko and
    Pastur); if :math:`n < d` some are 0. Swept over ``problem_seed``, it says whether a
    method works on quadratics, or on one of them.

    Args:
      problem_seed: whole number from 0 to 2**24 that :math:`A` is drawn from; may be
        traced.
      noise: :math:`\sigma \ge 0`, as in :func:`quadratic_deep`; may be traced.
      init_scale: :math:`s > 0`, the scale of the start; may be traced.
      dim: number :math:`d` of weights; static.
      examples: number :math:`n` of rows of :math:`A`; static.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape ``(dim,)``.

    Raises:
      TypeError: if an argument is not a single number, or a size not an int.
      ValueError: if an argument is outside its range (a traced one becomes NaN), or
        ``problem_seed`` not whole.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> def rate(seed):
      ...     return stabjax.problems.random_quadratic(seed).metadata["stable_rate"]
      >>> rates = jax.vmap(rate)(jnp.arange(100))
      >>> [round(float(f(rates)), 1) for f in (jnp.min, jnp.median, jnp.max)]
      [0.6, 0.8, 0.9]

    Source: Paquette et al., SGD in the large: average-case analysis, asymptotics, and
    stepsize criticality, 2021, whose setting this is.
    """
    problem_seed = number("problem_seed", problem_seed, at_least=0)
    if isinstance(problem_seed, float) and not (
        problem_seed.is_integer() and problem_seed <= 2**24
    ):
        raise ValueError(
            "problem_seed must be a whole number up to 2**24, as float32 tells no more"
            f" apart, got {problem_seed:.12g}"
        )
    noise = number("noise", noise, at_least=0)
    init_scale = number("init_scale", init_scale, above=0)
    shape = size("examples", examples), size("dim", dim)

    key = jax.random.key(jnp.asarray(problem_seed).astype(jnp.uint32))
    data = jax.random.normal(key, shape) + 0 * problem_seed  # NaN where that is
    hessian = jnp.einsum("ni,nj->ij", data, data) / examples
    sharpness = jnp.linalg.eigvalsh(hessian)[-1]
    known = sharpness if isinstance(sharpness, jax.core.Tracer) else float(sharpness)
    metadata = {
        "name": "random_quadratic",
        "steps": 500,
        "target_loss": 1e-3 * dim * init_scale**2 + 0.1 * dim * noise**2,
    }
    return _matrix_bowl(hessian, known, noise, init_scale, metadata)


def _matrix_bowl(
    hessian: ArrayLike,
    sharpness: Number,
    noise: Number,
    init_scale: Number,
    metadata: dict[str, object],
) -> Problem:
    """The quadratic of a matrix whose largest eigenvalue is ``sharpness``."""
    dim = np.shape(hessian)[0]

    def init(key: jax.Array) -> jax.Array:
        return init_scale * jax.random.normal(key, (dim,))

    def loss(w: jax.Array) -> jax.Array:
        return jnp.vdot(w, like(w, hessian) @ w) / 2

    def draw(key: jax.Array, w: jax.Array) -> jax.Array:
        return like(w, hessian) @ jax.random.normal(key, w.shape, w.dtype)

    norm = sharpness * init_scale * (dim / 10) ** 0.5
    known = {"optimum": 0.0, "minimizer": jnp.zeros(dim)}
    metadata = ranges(2 / sharpness, norm) | known | metadata
    return Problem(init, with_gradient_noise(loss, noise, draw), metadata=metadata)
