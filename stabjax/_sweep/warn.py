"""Warnings that point to the user's code."""

import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1])


def warn(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Issues a warning that points to the line that called this package."""
    frame, level, user = sys._getframe(), 1, 1
    while frame.f_back:
        inside = frame.f_code.co_filename.startswith(_PACKAGE)
        frame, level = frame.f_back, level + 1
        if inside:
            user = level
    warnings.warn(message, category, stacklevel=user)
