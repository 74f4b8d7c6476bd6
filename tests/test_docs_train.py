"""docs/train.md: its tables have every setting of a training once, with the default that it has."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from cldm.training import Settings, changed

NOTHING = "\N{EN DASH}"
DOCUMENT = (Path(__file__).parents[1] / "docs/train.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", re.MULTILINE)


def rows() -> list[tuple[str, str, str]]:
    """Name, default and meaning of all settings in the section about them."""
    section = re.split(r"^## ", DOCUMENT.partition("\n## Settings\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return ROW.findall(section)


def test_every_setting_has_one_row():
    assert sorted(name for name, *_ in rows()) == sorted(field.name for field in fields(Settings))


@pytest.mark.parametrize(("name", "default", "meaning"), rows())
def test_its_default_is_the_settings(name, default, meaning):
    text = "" if default == NOTHING else default.removeprefix("`").removesuffix("`")
    given = changed(Settings(), [f"{name}={text}"])
    assert getattr(given, name) == getattr(Settings(), name)
    assert meaning.strip()
