"""Type aliases for public signatures."""

from collections.abc import Callable, Hashable
from typing import TypeAlias

import jax
import numpy as np

# A Python number, NumPy or JAX array, or tracer. Unlike `jax.typing.ArrayLike`, this
# type supports arithmetic and comparison without a cast.
Number: TypeAlias = jax.Array | np.ndarray | np.number | float
# The result of comparing numbers.
Condition: TypeAlias = jax.Array | np.ndarray | np.bool_ | bool
# Maps an update count to a value, as in Optax.
Schedule: TypeAlias = Callable[[Number], Number]
# The name of a mapped axis, or a tuple of names.
AxisName: TypeAlias = Hashable

# A value of an axis as a dataset of runs stores it.
Label: TypeAlias = str | float | bool | None
