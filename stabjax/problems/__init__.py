"""Problems to train: a start and a loss as two pure functions, and what is known."""

from stabjax.problems.analytic import (
    cliff,
    deep_linear_chain,
    ill_conditioned_quadratic,
    quadratic,
    rosenbrock,
)
from stabjax.problems.networks import digits_mlp, supervised
from stabjax.problems.problem import Problem

__all__ = [
    "Problem",
    "cliff",
    "deep_linear_chain",
    "digits_mlp",
    "ill_conditioned_quadratic",
    "quadratic",
    "rosenbrock",
    "supervised",
]
