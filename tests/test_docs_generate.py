"""docs/generate.md: its table has every setting of a generation, with its default and limits; README's Python runs."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

import cldm.pipeline
from cldm.model_files import MODELS
from cldm.settings import LIMITS, PAGE_LIMITS, Settings
from tool_generate import _value

ROOT = Path(__file__).parents[1]
DASH = "\N{EN DASH}"
ROW = re.compile(r"^\| `(\w+)` \| `(.+?)` \| (.*?) ?\| (.*?) ?\| (.+) \|$", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs/generate.md").read_text().partition("\n## Settings\n")[2].partition("\n## ")[0])


def test_every_setting_has_one_row():
    assert sorted(name for name, *_ in ROWS) == sorted(field.name for field in fields(Settings))


@pytest.mark.parametrize(("name", "default", "limits", "of_page", "meaning"), ROWS)
def test_its_default_and_limits_are_the_settings(name, default, limits, of_page, meaning):
    assert replace(Settings(), **{name: _value(name, default)}) == Settings()
    for text, known in ((limits, LIMITS), (of_page, PAGE_LIMITS)):
        limit = known.get(name)
        expected = "" if limit is None else f"{limit.lowest:g}{DASH}{limit.highest:.10g}"
        assert text in (expected, DASH if known is PAGE_LIMITS else expected)
    assert meaning.strip()


@pytest.fixture
def the_miniature_alone(monkeypatch, tmp_path):
    """Whatever is in models/, and whatever files are named."""
    for file in MODELS.glob("*mini*"):
        (tmp_path / file.name).symlink_to(file)
    find_model, load = cldm.pipeline.find_model, cldm.pipeline.load

    def loaded(files, controls=(), **options):
        return load(files, "cpu", controls=[tmp_path / "control_mini.safetensors" for _ in controls], **options)

    monkeypatch.setattr(cldm.pipeline, "find_model", lambda control, *_: find_model(control, folder=tmp_path))
    monkeypatch.setattr(cldm.pipeline, "load", loaded)
    monkeypatch.chdir(ROOT)


def test_the_readmes_python_runs(the_miniature_alone):
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(block, names)  # the second goes on where the first ends
    assert [image.shape for image in names["result"].images] == [names["photo"].shape] * 2
