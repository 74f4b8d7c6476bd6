"""What the project's source files import, read without running them."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FOLDERS = ("ldm", "cldm", "annotator", "training", "bench", "test_imgs", "tests")


class Import(NamedTuple):
    """One imported name, such as `ldm.util` of `import ldm.util`, or `ldm.util.choose_device`."""

    line: int
    name: str


def sources() -> dict[str, str]:
    """Path from the project's root -> text, of every Python file of the project: in its folders and at its root."""
    paths = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(paths)}


def module_name(path: str) -> str:
    """`ldm/util.py` -> `ldm.util`, `annotator/hed/__init__.py` -> `annotator.hed`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(path: str, text: str) -> Iterator[Import]:
    """Every import in a file, wherever it stands; relative ones made absolute, `import_module("...")` included."""
    package = module_name(path).split(".")
    if not path.endswith("/__init__.py"):
        package = package[:-1]
    for node in ast.walk(ast.parse(text, path)):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (Import(node.lineno, f"{origin}.{alias.name}".removesuffix(".*")) for alias in node.names)
        elif isinstance(node, ast.Call) and _is_dynamic(node.func) and node.args:
            (name, *_) = node.args
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield Import(node.lineno, name.value)


def known_module(name: str, modules: Mapping[str, object]) -> str | None:
    """The module of the project that an imported name is, or is in; None for others' packages."""
    while name:
        if name in modules:
            return name
        name = name.rpartition(".")[0]
    return None


def _is_dynamic(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")
