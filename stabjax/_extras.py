"""Lazy imports of modules that need optional dependencies."""

import importlib
from types import ModuleType


def load(module: str, *, needed_by: str = "", extra: str = "sweep") -> ModuleType:
    """Imports a module that may need an optional dependency.

    Args:
      module: full module name.
      needed_by: name shown in the error message. Defaults to `module`.
      extra: the stabjax extra that installs the missing package.

    Raises:
      ModuleNotFoundError: If the package is missing. The message says how to install
        it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("stabjax"):
            raise
        package = (error.name or "").partition(".")[0]
        raise ModuleNotFoundError(
            f"{needed_by or module} needs the package {package!r}: pip install "
            f"'stabjax[{extra}]'",
            name=error.name,
        ) from error
