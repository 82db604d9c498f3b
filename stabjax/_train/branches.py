"""Errors for Python branches on traced arrays."""

import contextlib
from collections.abc import Iterator

import jax

# Errors that JAX raises if a function needs the concrete value of a tracer.
_TRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


@contextlib.contextmanager
def explained_branch(function: str) -> Iterator[None]:
    """Explains errors that JAX raises if a function needs a concrete value."""
    try:
        yield
    except _TRACED as error:
        raise TypeError(
            f"{function} must not use a traced array in a Python branch or convert "
            f"it to a Python number. Use jnp.where, jax.lax.cond or jax.lax.fori_loop."
        ) from error
