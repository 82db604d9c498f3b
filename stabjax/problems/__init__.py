"""Problems to train: a start and a loss as two pure functions, and what is known."""

from stabjax._train.problem import Problem
from stabjax.problems.bowls import (
    heavy_tailed_quadratic,
    ill_conditioned_quadratic,
    quadratic,
)
from stabjax.problems.digits import digits_cnn, digits_mlp
from stabjax.problems.networks import supervised
from stabjax.problems.products import deep_linear, deep_linear_chain, tied_product
from stabjax.problems.recurrent import adding, single_unit_rnn, temporal_order
from stabjax.problems.slopes import cosh, quartic
from stabjax.problems.spectra import quadratic_deep, random_quadratic
from stabjax.problems.text import bracket_text, copy_text, markov_text
from stabjax.problems.trainability import boundary_mlp
from stabjax.problems.transformer import char_transformer
from stabjax.problems.valleys import beale, branin, cliff, rosenbrock

__all__ = [
    "Problem",
    "adding",
    "beale",
    "boundary_mlp",
    "bracket_text",
    "branin",
    "char_transformer",
    "cliff",
    "copy_text",
    "cosh",
    "deep_linear",
    "deep_linear_chain",
    "digits_cnn",
    "digits_mlp",
    "heavy_tailed_quadratic",
    "ill_conditioned_quadratic",
    "markov_text",
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
