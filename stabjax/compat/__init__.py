"""Schedules by the names, arguments and values that they have elsewhere.

The modules import none of the libraries that they are named after.
"""

from stabjax.compat import huggingface, timm, torch

__all__ = ["huggingface", "timm", "torch"]
