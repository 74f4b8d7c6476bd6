"""pyproject.toml, constraints.txt, environment.yaml and the ways to install agree, and name all that is imported."""

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from imports import ROOT, imports, known_module, module_name, sources

SET_UP = ("pyproject.toml", "constraints.txt", "environment.yaml", "Makefile", "README.md")
CONSTRAINED = re.compile(r"(--constraint|-c)[ =]constraints\.txt\b")
PROJECT_WITH_TESTS = re.compile(r"(--editable|-e) ['\"]?\.\[dev\]")


@cache
def set_up() -> Mapping[str, str]:
    return {name: (ROOT / name).read_text() for name in SET_UP}


def disagreements(files: Mapping[str, str]) -> Iterator[str]:
    """A line for every respect in which the files of the set-up do not say the same."""
    project = tomllib.loads(files["pyproject.toml"])
    python = SpecifierSet(project["project"]["requires-python"])
    pins, unclear = read_pins(files["constraints.txt"])
    yield from unclear
    for requirement in [*declared(project), *declared(project, "dev")]:
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None:
            yield f"constraints.txt has no version of {requirement.name}"
        elif not requirement.specifier.contains(pin):
            yield f"constraints.txt has {requirement.name} {pin}, outside pyproject.toml's {requirement.specifier}"
    yield from _environment(yaml.safe_load(files["environment.yaml"]), python)
    for name in ("Makefile", "README.md"):
        yield from _commands(name, files[name])
    yield from _oldest_python(project, files["Makefile"], python)


def read_pins(constraints: str) -> tuple[dict[str, Version], list[str]]:
    """Name -> version of every line that gives exactly one, and a complaint about every other line."""
    pins: dict[str, Version] = {}
    unclear = []
    for line in constraints.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        try:
            requirement = Requirement(line)
            ((operator, version),) = ((s.operator, s.version) for s in requirement.specifier)
        except (InvalidRequirement, ValueError):
            operator = ""
        name = canonicalize_name(requirement.name) if operator else ""
        if operator != "==" or "*" in version or name in pins:
            unclear.append(f"constraints.txt must give each package one version, got {line}")
        else:
            pins[name] = Version(version)
    return pins, unclear


def declared(project: Mapping, extra: str | None = None) -> list[Requirement]:
    table = project["project"]
    names = table["dependencies"] if extra is None else table["optional-dependencies"][extra]
    return [Requirement(name) for name in names]


def _environment(environment: Mapping, python: SpecifierSet) -> Iterator[str]:
    if environment["name"] != "control":
        yield f"environment.yaml must be named control, got {environment['name']}"
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    versions = [entry.partition("=")[2].strip("=") for entry in plain if entry.startswith("python=")]
    if versions != ["3.11"] or not python.contains(versions[0]):
        yield f"environment.yaml must have python 3.11, within pyproject.toml's {python}, got {versions}"
    pip = "\n".join(line for entry in environment["dependencies"] if isinstance(entry, dict) for line in entry["pip"])
    if not CONSTRAINED.search(pip) or not PROJECT_WITH_TESTS.search(pip):
        yield f"environment.yaml must install .[dev] with constraints.txt, got {pip!r}"
    others = [entry for entry in plain if not re.match(r"(python=|pip$)", entry)]
    others += [line for line in pip.splitlines() if not re.match(r"--?\w", line)]
    if others:
        yield f"environment.yaml must leave packages to pyproject.toml, got {others}"


def _commands(name: str, text: str) -> Iterator[str]:
    commands = [line.strip() for line in text.splitlines() if "pip install" in line]
    if not any(PROJECT_WITH_TESTS.search(command) for command in commands):
        yield f"{name} must install .[dev]"
    for command in commands:
        if PROJECT_WITH_TESTS.search(command) and not CONSTRAINED.search(command):
            yield f"{name} must install with constraints.txt, got {command}"


def _oldest_python(project: Mapping, makefile: str, python: SpecifierSet) -> Iterator[str]:
    checked = re.search(r"sys\.version_info < \((\d+), (\d+)\)", makefile)
    oldest = {
        "the Makefile's check": ".".join(checked.groups()) if checked else "none",
        "ruff's target-version": re.sub(r"^py3", "3.", project["tool"]["ruff"]["target-version"]),
    }
    for where, version in oldest.items():
        if f">={version}" != str(python):
            yield f"{where} is {version}, but pyproject.toml requires Python {python}"


def undeclared_imports(files: Mapping[str, str], project: Mapping) -> Iterator[str]:
    """A line for every import of a package that pyproject.toml does not name; tests and bench may use the dev extra."""
    modules = {module_name(path): path for path in files} | {path.split("/")[0]: path for path in files}
    modules |= {module_name(path).split(".")[-1]: path for path in files if path.startswith("tests/")}
    installed = packages_distributions()
    run_time = {canonicalize_name(r.name) for r in declared(project)}
    with_dev = run_time | {canonicalize_name(r.name) for r in declared(project, "dev")}
    for path, text in files.items():
        allowed = with_dev if path.startswith(("tests/", "bench/")) else run_time
        for line, name in imports(path, text):
            package = name.split(".")[0]
            if known_module(name, modules) or package in sys.stdlib_module_names:
                continue
            owners = {canonicalize_name(owner) for owner in installed.get(package, [])}
            if not owners & allowed:
                owner = " or ".join(sorted(owners)) or "a package that is not installed"
                yield f"{path}:{line} imports {package}: pyproject.toml does not name {owner}"


def test_set_up_agrees():
    assert list(disagreements(set_up())) == []


def test_all_that_is_imported_is_declared():
    assert list(undeclared_imports(sources(), tomllib.loads(set_up()["pyproject.toml"]))) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("pyproject.toml", '"numpy>=2.0"', '"numpy>=99"', "outside pyproject.toml's >=99"),
        ("pyproject.toml", '"einops>=0.8"', '"einops<0.1"', "constraints.txt has einops"),
        ("pyproject.toml", '"numpy>=2.0"', '"numpy>=2.0", "left-pad"', "constraints.txt has no version of left-pad"),
        ("pyproject.toml", '"pytest>=8"', '"pytest>=99"', "outside pyproject.toml's >=99"),
        ("pyproject.toml", 'python = ">=3.11"', 'python = ">=3.12"', "environment.yaml must have python 3.11"),
        ("pyproject.toml", 'python = ">=3.11"', 'python = ">=3.10"', "the Makefile's check is 3.11"),
        ("pyproject.toml", '"py311"', '"py312"', "ruff's target-version is 3.12"),
        ("constraints.txt", "\ntorch==", "\n#torch==", "constraints.txt has no version of torch"),
        ("constraints.txt", "\nruff==", "\nruff>=", "must give each package one version, got ruff>="),
        ("constraints.txt", "\ntorch==", "\nTorch==1.0\ntorch==", "must give each package one version, got torch=="),
        ("constraints.txt", "\ntorch==", "\nnot a line\ntorch==", "must give each package one version, got not a"),
        ("environment.yaml", "name: control", "name: base", "must be named control, got base"),
        ("environment.yaml", "python=3.11", "python=3.9", "environment.yaml must have python 3.11"),
        ("environment.yaml", "  - python=3.11\n", "", "environment.yaml must have python 3.11"),
        ("environment.yaml", "      - --constraint constraints.txt\n", "", "must install .[dev] with constraints.txt"),
        ("environment.yaml", ".[dev]", ".", "must install .[dev] with constraints.txt"),
        ("environment.yaml", "  - pip\n", "  - pip\n  - numpy\n", "must leave packages to pyproject.toml"),
        (
            "environment.yaml",
            "      - --edit",
            "      - gradio\n      - --edit",
            "must leave packages to pyproject.toml",
        ),
        ("Makefile", "--constraint constraints.txt", "", "Makefile must install with constraints.txt"),
        ("Makefile", "'.[dev]'", ".", "Makefile must install .[dev]"),
        ("Makefile", "(3, 11)", "(3, 8)", "the Makefile's check is 3.8"),
        ("README.md", "--constraint constraints.txt", "", "README.md must install with constraints.txt"),
    ],
)
def test_disagreements_are_found(name, old, new, complaint):
    text = set_up()[name]
    assert old in text, f"{name} has changed, so this test changes nothing in it: name another place"
    found = list(disagreements({**set_up(), name: text.replace(old, new, 1)}))
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("ldm/new.py", "import pytest", "pyproject.toml does not name pytest"),
        ("tool_new.py", "def main():\n    from diffusers import UNet2DConditionModel", "does not name diffusers"),
        ("training/new.py", "import no_such_package", "does not name a package that is not installed"),
        ("tests/test_new.py", "import starlette.testclient", "does not name starlette"),
    ],
)
def test_undeclared_imports_are_found(path, text, complaint):
    project = tomllib.loads(set_up()["pyproject.toml"])
    (line,) = undeclared_imports({path: text}, project)
    assert line.startswith(f"{path}:")
    assert complaint in line


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("ldm/new.py", "import cv2, torch.nn\nfrom ldm.new import f\nimport json"),
        ("tests/test_new.py", "import pytest\nfrom skimage import data"),
        ("bench/new.py", "from controlnet_aux import HEDdetector"),
    ],
)
def test_declared_imports_are_not(path, text):
    assert list(undeclared_imports({path: text}, tomllib.loads(set_up()["pyproject.toml"]))) == []
