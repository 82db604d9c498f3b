"""Warnings that point at the user's line."""

import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1])


def warn(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Warns at the line that has called this package."""
    frame, level, user = sys._getframe(), 1, 1
    while frame.f_back:
        inside = frame.f_code.co_filename.startswith(_PACKAGE)
        frame, level = frame.f_back, level + 1
        if inside:
            user = level
    warnings.warn(message, category, stacklevel=user)
