"""Schedules with the names, arguments and values of other libraries.

The modules do not import the libraries they are named after.
"""

from stabjax.compat import huggingface, timm, torch

__all__ = ["huggingface", "timm", "torch"]
