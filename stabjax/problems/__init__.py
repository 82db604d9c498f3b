"""Training problems, each with an initializer, a loss function and metadata.

Analytic problems need only JAX and Optax. Problems based on Flax modules need the
packages of the extra `stabjax[sweep]` and are imported on first use.
"""

from typing import TYPE_CHECKING, Any

from stabjax._extras import load
from stabjax._train.problem import Problem
from stabjax.problems.bowls import (
    heavy_tailed_quadratic,
    ill_conditioned_quadratic,
    quadratic,
)
from stabjax.problems.products import deep_linear, deep_linear_chain, tied_product
from stabjax.problems.slopes import cosh, quartic
from stabjax.problems.spectra import quadratic_deep, random_quadratic
from stabjax.problems.text import bracket_text, copy_text, markov_text
from stabjax.problems.valleys import beale, branin, cliff, rosenbrock, single_unit_rnn

if TYPE_CHECKING:
    from stabjax.problems.digits import digits_cnn, digits_mlp
    from stabjax.problems.networks import supervised
    from stabjax.problems.recurrent import adding, temporal_order
    from stabjax.problems.trainability import boundary_mlp
    from stabjax.problems.transformer import char_transformer

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

_NETWORKS = {
    "adding": "recurrent",
    "boundary_mlp": "trainability",
    "char_transformer": "transformer",
    "digits_cnn": "digits",
    "digits_mlp": "digits",
    "supervised": "networks",
    "temporal_order": "recurrent",
}


def __getattr__(name: str) -> Any:
    if name not in _NETWORKS:
        raise AttributeError(f"module 'stabjax.problems' has no attribute {name!r}")
    needed_by = f"stabjax.problems.{name}"
    module = load(f"stabjax.problems.{_NETWORKS[name]}", needed_by=needed_by)
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
