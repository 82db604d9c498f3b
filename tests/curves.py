"""A schedule as an array of its values."""

import jax
import jax.numpy as jnp
import numpy as np

COUNTS = np.arange(48, dtype=np.int32)


def curve(schedule, counts=COUNTS):
    """The values at all counts, each seen as a scalar."""
    return jax.vmap(lambda count: jnp.asarray(schedule(count)))(counts)
