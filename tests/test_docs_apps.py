"""docs/apps.md: every app with its command, its picture and its sliders, as they are."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DASH = "\N{EN DASH}"
DOCUMENT = (ROOT / "docs/apps.md").read_text()
APPS = [path.stem.removeprefix("gradio_").removesuffix("2image") for path in sorted(ROOT.glob("gradio_*2image.py"))]


@pytest.mark.parametrize("name", APPS)
def test_the_app_has_a_row_a_section_and_a_small_picture(name):
    demo = import_module(f"gradio_{name}2image").demo
    (row,) = re.findall(rf"^\| \[`python gradio_{name}2image.py`\]\(#([\w-]+)\) \| (.+) \|$", DOCUMENT, re.MULTILINE)
    anchor, rest = row
    assert f"`control_sd15_{demo.control}`" in rest
    assert (f"`{demo.weights}`" if demo.weights else DASH) in rest
    sections = {re.sub(r"\W+", "-", title.lower()): text for title, text in sections_of(DOCUMENT)}
    section = sections[anchor]
    assert f"`python gradio_{name}2image.py`" in section
    for option in demo.options:
        assert f"{option.minimum:g}{DASH}{option.maximum:g} ({option.value:g})" in section.replace("\n", " ")
    if demo.detect_at:
        assert re.search(rf"detection\sresolution \({demo.detect_at}\)", section)
    (picture,) = re.findall(r"!\[.+\]\((.+)\)", section)
    assert picture == f"apps/{name}.png"


def sections_of(document: str) -> list[tuple[str, str]]:
    parts = re.split(r"^## (.+)$", document, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def test_the_readme_names_every_command():
    readme = (ROOT / "README.md").read_text()
    assert [name for name in APPS if f"python gradio_{name}2image.py" not in readme] == []
    assert "docs/apps.md" in readme
