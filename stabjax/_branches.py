"""Errors for code that needs the value of a traced array."""

import contextlib
from collections.abc import Iterator

import jax

# Errors that JAX raises if a function needs the concrete value of a tracer.
_TRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
)


@contextlib.contextmanager
def explained_branch(function: str) -> Iterator[None]:
    """Explains errors that JAX raises if a function needs a concrete value."""
    try:
        yield
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(
            f"{function} must not convert a traced array to a NumPy array. Use "
            f"jax.numpy, and jax.debug.print to print a value."
        ) from error
    except _TRACED as error:
        raise TypeError(
            f"{function} must not use a traced array in a Python branch or convert "
            f"it to a Python number. Use jnp.where, jax.lax.cond or jax.lax.fori_loop."
        ) from error
    except TypeError as error:
        if "Tracer.__format__" not in str(error):
            raise
        raise TypeError(
            f"{function} must not format a traced array as text. Use "
            f"jax.debug.print to print a value."
        ) from error
