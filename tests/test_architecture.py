"""docs/architecture.md maps the code as it is: every module is named, and nothing that is not there."""

import re
from collections.abc import Collection, Iterator

import pytest

from imports import ROOT, sources

PACKAGES = ("ldm/", "cldm/", "annotator/")
PATH = re.compile(r"`((?:ldm|cldm|annotator|training|bench|tests|models)/[\w./]+|\w+\.(?:py|toml|txt|yaml))`")


def differences(document: str, paths: Collection[str]) -> Iterator[str]:
    """A line for every module that the document leaves out, and for every path that it names in vain."""
    named = set(PATH.findall(document))
    folders = {name for name in named if name.endswith("/")}
    for path in paths:
        if path.startswith(PACKAGES) and path not in named and not path.startswith(tuple(folders)):
            yield f"docs/architecture.md does not name {path}"
    for name in sorted(named):
        if not any(path.startswith(name) for path in paths) and not (ROOT / name).exists():
            yield f"docs/architecture.md names {name}, which is not there"


def document() -> str:
    return (ROOT / "docs/architecture.md").read_text()


def modules() -> list[str]:
    return [path for path, text in sources().items() if text]


def test_the_map_is_complete_and_true():
    assert list(differences(document(), modules())) == []


@pytest.mark.parametrize("left_out", ["ldm/util.py", "cldm/pipeline.py", "annotator/hed/"])
def test_what_is_left_out_is_found(left_out):
    found = list(differences(document().replace(left_out, ""), modules()))
    assert any(f"does not name {left_out}" in line for line in found), found


@pytest.mark.parametrize("vain", ["cldm/no_such.py", "annotator/no_such/", "no_such.py", "models/no_such.yaml"])
def test_what_is_named_in_vain_is_found(vain):
    (line,) = differences(f"{document()} `{vain}`", modules())
    assert line == f"docs/architecture.md names {vain}, which is not there"
