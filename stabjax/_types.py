"""Types that signatures share, and those that Optax leaves out."""

from collections.abc import Callable, Hashable
from typing import TypeAlias

import jax
import numpy as np

# What a numeric argument may be: a Python number, a NumPy or JAX array, or a tracer.
# Unlike `jax.typing.ArrayLike` it has arithmetic and order, so no cast is needed.
Number: TypeAlias = jax.Array | np.ndarray | np.number | float
# What a comparison of numbers returns.
Condition: TypeAlias = jax.Array | np.ndarray | np.bool_ | bool
# From a count of updates to a value; what Optax calls a schedule.
Schedule: TypeAlias = Callable[[Number], Number]
# The name of a mapped axis, or of several.
AxisName: TypeAlias = Hashable
