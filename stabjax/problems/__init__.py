"""Problems to train: a start and a loss as two pure functions, and what is known."""

from stabjax.problems.bowls import (
    heavy_tailed_quadratic,
    ill_conditioned_quadratic,
    quadratic,
)
from stabjax.problems.digits import digits_cnn, digits_mlp
from stabjax.problems.networks import supervised
from stabjax.problems.problem import Problem
from stabjax.problems.products import deep_linear, deep_linear_chain, tied_product
from stabjax.problems.recurrent import adding, single_unit_rnn, temporal_order
from stabjax.problems.slopes import cosh, quartic
from stabjax.problems.spectra import quadratic_deep, random_quadratic
from stabjax.problems.valleys import beale, branin, cliff, rosenbrock

__all__ = [
    "Problem",
    "adding",
    "beale",
    "branin",
    "cliff",
    "cosh",
    "deep_linear",
    "deep_linear_chain",
    "digits_cnn",
    "digits_mlp",
    "heavy_tailed_quadratic",
    "ill_conditioned_quadratic",
    "quadratic",
    "quadratic_deep",
    "quartic",
    "random_quadratic",
    "rosenbrock",
    "single_unit_rnn",
    "supervised",
    "temporal_order",
    "tied_product",
]
