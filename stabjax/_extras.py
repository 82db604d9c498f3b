"""Modules that need a package of an extra, imported when first used."""

import importlib
from types import ModuleType


def load(module: str, *, needed_by: str = "", extra: str = "sweep") -> ModuleType:
    """Imports a module that may need a package which is not installed.

    Args:
      module: the full name of the module.
      needed_by: what the user asked for, for the message; the module by default.
      extra: the extra of this package that brings the missing one.

    Raises:
      ModuleNotFoundError: the package is missing. The message says how to install it.
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
