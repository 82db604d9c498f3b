"""Small runs as vectors over trials, in one function on a CPU and one kernel on a GPU.

`vmap` makes an array of the trials of every array of a trial, and XLA (jaxlib 0.10 to
0.12) several kernels of every step, which exchange these arrays through memory. Here a
trial is taken apart: each element of its arrays becomes a vector over trials, and the
loop over steps runs on vectors that stay in registers or in the first-level cache.
What is not a few operations on elements (`Inexpressible`) stays with `vmap`.
"""

from stabjax._sweep.lanes.chunk import chunk_of
from stabjax._sweep.lanes.equations import Inexpressible
from stabjax._sweep.lanes.fusion import unfused
from stabjax._sweep.lanes.run import Run, run_of, trained

LARGEST = 64  # parameters, each of which becomes a vector

__all__ = [
    "LARGEST",
    "Inexpressible",
    "Run",
    "chunk_of",
    "run_of",
    "trained",
    "unfused",
]
