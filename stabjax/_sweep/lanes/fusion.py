"""Several outputs from one loop, which XLA:CPU does not combine by itself.

XLA (jaxlib 0.8 to 0.12) compiles one loop for each output of a step. Each one computes
all values that its output depends on, or reads them from memory. The compiler also
accepts an operation that is already a fusion of several outputs, and makes it a single
loop. For two weights, this is 1.25 times as fast with SGD and 1.5 times with momentum.
Steps with more outputs gain less than 10%, and some take twice as long to compile.
"""

import contextlib
import contextvars
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jax.interpreters import mlir
from jaxlib import version

# The versions of jaxlib that compile such an operation. Others may abort.
_VERSIONS = ((0, 8), (0, 12))
# Operations that these versions compile inside a fusion.
_NAMES = """abs add and bitcast_convert_type broadcast_in_dim ceil convert_element_type
cos div eq exp expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min
mul ne neg not or pow rem round rsqrt select_n shift_left shift_right_arithmetic
shift_right_logical sign sin sqrt square sub tanh xor"""
_DTYPES = "bool float32 float64 int32 int64 uint32 uint64"
# LLVM does not vectorize a loop that needs more comparisons of addresses to exclude
# that an output overlaps with another array.
_COMPARISONS = 128

_Vectors = list[jax.Array]
_allowed = contextvars.ContextVar("_allowed", default=True)


@contextlib.contextmanager
def unfused() -> Iterator[None]:
    """Traces programs without fusions, for one that XLA rejects.

    XLA rejects a fusion if it finds that no output depends on one of the inputs.
    """
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)


def is_fusible(
    names: Collection[str], dtypes: Collection[Any], inputs: int, outputs: int
) -> bool:
    """Returns whether `fused` supports an evaluation.

    Args:
      names: the names of the primitives.
      dtypes: the types of all values.
      inputs: the number of inputs, which include the old state.
      outputs: the number of outputs, which are the new state.
    """
    found = tuple(map(int, version.__version__.split(".")[:2]))
    # XLA writes the new state over the old.
    comparisons = outputs * (inputs - outputs) + outputs * (outputs - 1) // 2
    return (
        _allowed.get()
        and _VERSIONS[0] <= found <= _VERSIONS[1]
        and {*names} <= {*_NAMES.split()}
        and {np.dtype(x).name for x in dtypes} <= {*_DTYPES.split()}
        and outputs > 1  # XLA rejects a fusion of one output
        and comparisons <= _COMPARISONS
    )


def fused(function: Callable[..., _Vectors], *inputs: jax.Array) -> _Vectors:
    """Evaluates elementwise operations on vectors in a single loop.

    The function receives inputs that are scalars as vectors. No other operation inside
    the same loop over steps may compute an input because XLA would move that operation
    into the fusion.
    """
    (size,) = {len(x) for x in inputs if x.ndim}

    def vector(value: jax.Array) -> jax.Array:
        return _opaque(value) if value.ndim else lax.broadcast(value, (size,))

    def opaque(*values: jax.Array) -> _Vectors:
        return [*map(_opaque, function(*map(vector, values)))]

    found: _Vectors = _fused.bind(*inputs, program=jax.make_jaxpr(opaque)(*inputs))
    return found


def _opaque(value: jax.Array) -> jax.Array:
    """Applies an operation that has no effect and no cost, but which XLA keeps.

    In a fusion, only the inputs have a layout. XLA would abort if a vector among them
    were an output or the condition of a selection.
    """
    if value.dtype == bool:
        return _opaque(value.astype(np.int32)) != 0
    if jnp.issubdtype(value.dtype, jnp.integer):
        ends = np.iinfo(value.dtype)
        low, high = (lax.full_like(value, x) for x in (ends.min, ends.max))
        return lax.clamp(low, value, high)
    limits = np.finfo(value.dtype)
    return lax.reduce_precision(value, limits.nexp, limits.nmant)


_fused = core.Primitive("fused")
_fused.multiple_results = True


@_fused.def_abstract_eval  # type: ignore[untyped-decorator]
def _shapes(*_: Any, program: core.ClosedJaxpr) -> list[Any]:
    return [*program.out_avals]


def _lowered(
    context: mlir.LoweringRuleContext, *inputs: Any, program: core.ClosedJaxpr
) -> Any:
    from jaxlib.mlir.dialects import mhlo

    outputs = [
        mlir.ir.RankedTensorType.get(x.shape, mlir.dtype_to_ir_type(x.dtype))
        for x in context.avals_out
    ]
    kind = mhlo.FusionKindAttr.get("kLoop")
    fusion = mhlo.FusionOp(outputs, inputs, fusion_kind=kind)
    block = fusion.regions[0].blocks.append(*(x.type for x in inputs))
    with mlir.ir.InsertionPoint(block):
        call = core.jaxpr_as_fun(program)
        found = mlir.lower_fun(call)(context, *block.arguments)
        mhlo.ReturnOp(jax.tree.leaves(found))
    return fusion.results


mlir.register_lowering(_fused, _lowered, platform="cpu")
