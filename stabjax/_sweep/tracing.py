"""Tracing errors that name the axis that caused them."""

import itertools
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from stabjax._sweep.program import Program

_Array = np.ndarray[Any, Any]
_OPTAX = str(Path(optax.__file__).parent)


def explained(
    error: Exception, program: Program, numbers: Mapping[str, _Array]
) -> Exception:
    """Returns an error that names the axes that must be static, if there are any.

    JAX's own message would name internal functions of stabjax. To find the axes, this
    function repeats the trace with the initial value of an axis in place of the tracer.
    If the trace succeeds, the axis must be static.
    """
    if "trace" not in str(error).lower():
        return error
    factories, statics, _, settings = program.given
    pairs = itertools.combinations(numbers, 2)
    for names in [*([name] for name in numbers), *pairs, [*numbers]]:
        fixed = {**statics, **{name: numbers[name][0].item() for name in names}}
        rest = {n: v.dtype for n, v in numbers.items() if n not in names}
        try:
            Program(factories, fixed, rest, settings).shapes()
        except Exception:  # of any type: another axis must also be static
            continue
        return TypeError(_sentence(error, names, numbers))
    return error


def _sentence(
    error: Exception, names: Sequence[str], numbers: Mapping[str, _Array]
) -> str:
    calls = []
    for name in names:
        values = numbers[name]
        more = ", ..." if len(values) > 3 else ""
        calls.append(f"{name}=static([{', '.join(map(str, values[:3]))}{more}])")
    axes = " and ".join(map(repr, names))
    axes = f"axis {axes}" if len(names) == 1 else f"axes {axes}"
    text = (
        f"{axes} must be static if its value determines a shape or a Python "
        f"branch, got traced numbers. Use {', '.join(calls)}."
    )
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, jax.errors.TracerArrayConversionError):
        text += " A function of jax.numpy in place of NumPy accepts traced numbers."
    if any(frame.filename.startswith(_OPTAX) for frame in frames):
        text += (
            " Optax schedules need static steps. The stabjax schedules of the same "
            "name accept traced steps."
        )
    return text
