"""Functions and problems in a Python file of the user, as `path/to/file.py:name`."""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stabjax._arguments import lookup, suggestion
from stabjax._sweep.factories import is_problem


def is_in_file(text: str) -> bool:
    """Returns whether a text names something in a Python file."""
    path, _, name = text.rpartition(":")
    return path.endswith(".py") and bool(name)


def found_in_file(option: str, text: str) -> Any:
    """Imports a file and returns the value of a name in it."""
    path, _, name = text.rpartition(":")
    file = Path(path).resolve()
    if not file.is_file():
        raise ValueError(f"{option} must name a file that exists, got {path!r}.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{option} must name a Python file, got {path!r}.")
    module = importlib.util.module_from_spec(spec)
    # The file may import its neighbors, as it can when it is run as a script.
    sys.path.insert(0, str(file.parent))
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if name not in vars(module):
        names = [known for known in vars(module) if not known.startswith("_")]
        raise ValueError(
            f"{option} must be a name in {path}, got {name!r}.{suggestion(name, names)}"
        )
    return vars(module)[name]


def problem_at(
    text: str, known: Mapping[str, Callable[..., Any]]
) -> Callable[..., Any]:
    """Returns the function that makes a problem, from a catalogue or a file."""
    if not is_in_file(text):
        return lookup("problem", text, known)
    found = found_in_file("problem", text)
    if is_problem(found):
        return lambda: found
    if not callable(found):
        raise ValueError(
            f"problem must be a Problem or a function that returns one, got "
            f"{type(found).__name__} in {text}."
        )
    made: Callable[..., Any] = found
    return made
