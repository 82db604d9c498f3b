"""The API reference: a page for every public name, written from its docstring.

`write` creates the sources of the pages before Sphinx reads them, and `to_rst` converts
the docstrings, which are plain text with backticks, to reStructuredText.
"""

import functools
import importlib
import inspect
import pathlib
import re

import stabjax

# Headings of the names at the top of the package, by the private package of each.
PARTS = {
    "Clipping": ("_clipping", "_groups", "_norms"),
    "Guards": ("_guards",),
    "Metrics": ("_metrics",),
    "Schedules": ("_schedules",),
    "Training runs and sweeps": ("_train", "_sweep"),
}
MODULES = (
    "stabjax.runs",
    "stabjax.plot",
    "stabjax.problems",
    "stabjax.search",
    "stabjax.study",
    "stabjax.compat.torch",
    "stabjax.compat.huggingface",
    "stabjax.compat.timm",
)
CONSTANTS = {
    "CLIPPINGS": "The clipping methods of `Methods`, by name.",
    "DEFAULT_PROBLEMS": "The problems of a study by default, by name.",
    "PROBLEMS": "All problems of `plans`, by name.",
    "SCHEDULES": "The schedules of `Methods`, by name.",
}
_ALIASES = """\
In signatures, ``Number`` is a Python number, a NumPy or JAX array, or a traced value,
and ``ArrayLike`` also includes complex numbers. ``Schedule`` is a function that takes
an update count and returns a number. ``ArrayTree`` is a pytree of arrays, such as
parameters or an optimizer state."""
_SECTIONS = r"(Args|Attributes|Returns|Raises|Example|References|Yields|Note):"


def names_of(module):
    """The public names of a module that are not modules themselves."""
    found = importlib.import_module(module)
    return [
        name for name in found.__all__ if not inspect.ismodule(getattr(found, name))
    ]


def groups():
    """Title, module and names of each section of the reference."""
    for title, homes in PARTS.items():
        names = [name for home in homes for name in stabjax._HOMES[home]]
        yield title, "stabjax", sorted(names, key=str.lower)
    for module in MODULES:
        yield module, module, names_of(module)


@functools.cache
def pages():
    """The full name of every public name, by all spellings used in the pages."""
    found = {}
    for _, module, names in groups():
        for name in names:
            full = f"{module}.{name}"
            found |= {full: full, full.removeprefix("stabjax."): full}
    return found


def summary(module, name):
    """The first sentence of a docstring, or the description of a constant."""
    value = getattr(importlib.import_module(module), name)
    if inspect.isclass(value) or callable(value):
        return escaped(inspect.getdoc(value).split("\n\n")[0].replace("\n", " "))
    return CONSTANTS[name]


def page_of(module, name):
    """The source of the page of one name."""
    value = getattr(importlib.import_module(module), name)
    title = f"{module}.{name}"
    lines = [title, "=" * len(title), "", f".. currentmodule:: {module}", ""]
    if inspect.isclass(value):
        lines += [f".. autoclass:: {name}", "   :members:"]
    elif callable(value):
        lines += [f".. autofunction:: {name}"]
    else:
        lines += [f".. data:: {name}", "", f"   {summary(module, name)}", ""]
        lines += [f"   - ``{key}``" for key in value]
    return "\n".join(lines) + "\n"


def index():
    """The source of the start page of the reference."""
    lines = ["API reference", "=============", "", _ALIASES, ""]
    for title, module, names in groups():
        lines += [title, "-" * len(title), "", f".. currentmodule:: {module}", ""]
        if module != "stabjax":
            text = inspect.getdoc(importlib.import_module(module)).split("\n\n")[0]
            lines += [escaped(text.replace("\n", " ")), ""]
        lines += [".. list-table::", "   :widths: 35 65", ""]
        for name in names:
            lines += [f"   * - :py:obj:`~{module}.{name}`"]
            lines += [f"     - {summary(module, name)}"]
        lines += ["", ".. toctree::", "   :hidden:", ""]
        prefix = module.removeprefix("stabjax").lstrip(".")
        prefix = f"{prefix}." if prefix else ""
        lines += [f"   {prefix}{name} <{module}.{name}>" for name in names]
        lines += [""]
    lines += [".. toctree::", "   :hidden:", "", "   formulas", ""]
    return "\n".join(lines)


def formula(value):
    """The formulas of a docstring: its indented paragraphs."""
    text = re.split(rf"\n{_SECTIONS}\n", inspect.getdoc(value))[0]
    blocks = re.findall(r"(?:^    .*\n?|^\n(?=    ))+", text, flags=re.MULTILINE)
    return [block.strip("\n") for block in blocks if block.strip()]


def formulas():
    """The source of a page with the formulas of all transformations and schedules."""
    lines = ["All formulas", "============", ""]
    lines += ["The page of each function defines the symbols.", ""]
    for title, module, names in groups():
        functions = [(name, getattr(stabjax, name, None)) for name in names]
        found = [
            (name, formula(value))
            for name, value in functions
            if inspect.isfunction(value) and formula(value)
        ]
        if module != "stabjax" or not found:
            continue
        lines += [title, "-" * len(title), ""]
        for name, blocks in found:
            lines += [
                f":py:obj:`~stabjax.{name}` {summary(module, name)}",
                "",
                "::",
                "",
            ]
            lines += "\n\n".join(blocks).splitlines()
            lines += [""]
    return "\n".join(lines)


def write(folder):
    """Writes all pages, and removes those of names that are gone."""
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    pages = {"index.rst": index(), "formulas.rst": formulas()}
    for _, module, names in groups():
        pages |= {f"{module}.{name}.rst": page_of(module, name) for name in names}
    for old in folder.glob("*.rst"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:  # Sphinx rereads new files
            path.write_text(text)


def shortened(signature, aliases, constants):
    """A signature with aliases instead of types and values instead of constants."""
    for types, alias in aliases.items():
        signature = signature.replace(types, alias)
    signature = re.sub(
        r"= ([A-Z_]{2,})\b",
        lambda found: f"= {constants.get(found[1], found[1])}",
        signature,
    )
    return signature.replace("<factory>", "{}")  # of a dataclass


def escaped(line):
    """Plain text, whose only markup is code in backticks."""
    parts = re.split(r"(`[^`]*`)", line)
    parts[::2] = [re.sub(r"([*|_\\])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def to_rst(lines):
    """A docstring as reStructuredText, in place.

    Indented paragraphs before the first section are formulas, and become literal
    blocks. Elsewhere asterisks, underscores and bars are escaped, except in examples.
    """
    formulas, section, found = True, "", []
    for line in lines:
        if re.fullmatch(_SECTIONS, line):
            formulas, section = False, line
            found.append(line)
        elif section == "Example:" or not line.strip():
            found.append(line)
        elif formulas and line.startswith("    "):
            if not (found and found[-1].startswith("    ")) and not _continues(found):
                found += ["::", ""]
            found.append(line)
        else:
            text = escaped(line).replace(r"\*\*", "**")
            # A symbol with a period would become an item of a numbered list.
            found.append(re.sub(r"^( *(?:[\w\\]+: )?\w)\. ", r"\1\. ", text))
            if section == "References:" and re.search(r"https://\S+$", line):
                found.append("")  # between references
    lines[:] = found


def _continues(found):
    """Whether an indented line continues a literal block after an empty line."""
    texts = [line for line in found if line]
    return bool(texts) and texts[-1].startswith("    ")
