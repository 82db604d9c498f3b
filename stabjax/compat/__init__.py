"""Schedules with the names, arguments and values of other libraries.

These modules do not import the corresponding libraries.
"""

from stabjax.compat import huggingface, timm, torch

__all__ = ["huggingface", "timm", "torch"]
