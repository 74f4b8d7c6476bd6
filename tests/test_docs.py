"""README.md and docs/: links lead somewhere, and commands are such that the scripts take them."""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from cldm.training import Settings, changed

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Command(NamedTuple):
    """A line of a document that starts one of the scripts."""

    document: str
    script: str
    words: list[str]

    def __str__(self) -> str:
        return f"{self.document}: {self.script} {' '.join(self.words)}"


def plain(document: str) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", document, flags=re.MULTILINE | re.DOTALL)


def anchors(document: str) -> set[str]:
    """What its headings are called in links."""
    titles = re.findall(r"^#+ (.+)$", plain(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(path: Path, text: str) -> list[str]:
    """The links of a document to files and headings that are not there."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", plain(text)):
        if link.startswith(("http:", "https:")):
            continue
        name, _, anchor = link.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in anchors(text if file == path else file.read_text())):
            dead.append(link)
    return dead


def commands(path: Path, text: str) -> list[Command]:
    """Commands of its blocks of code that start one of the scripts here."""
    found = []
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.search(r"(?:^|\s|/)(?:python|--\S+) ((?:gradio|tool|tutorial)_\w+\.py)(?:\s|$)", line):
                words = shlex.split(line[match.end(1) :], comments=True)
                found.append(Command(path.name, match[1], words))
    return found


COMMANDS = [command for path in DOCUMENTS for command in commands(path, path.read_text())]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    assert dead_links(path, path.read_text()) == []


def test_the_readme_leads_to_every_document():
    readme = DOCUMENTS[0].read_text()
    assert [path.name for path in DOCUMENTS[1:] if f"(docs/{path.name}" not in readme] == []


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_scripts_take_the_commands(command, monkeypatch):
    assert (ROOT / command.script).is_file()
    if command.script.startswith("tutorial_train"):
        changed(Settings(), command.words)
        return
    _ends_after(monkeypatch, "parse_args")
    _ends_after(monkeypatch, "parse_intermixed_args")
    monkeypatch.setattr(sys, "argv", [command.script, *command.words])
    with pytest.raises(_Parsed):
        runpy.run_path(str(ROOT / command.script), run_name="__main__")


class _Parsed(BaseException):
    """The command line was read; nothing is to be done."""


def _ends_after(monkeypatch, method: str) -> None:
    parse = getattr(argparse.ArgumentParser, method)

    def ends(self, *arguments):
        parse(self, *arguments)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, method, ends)


def test_what_is_wrong_is_found(tmp_path):
    path, other = tmp_path / "a.md", tmp_path / "b.md"
    text = "# A title, here\n[a](#a-title-here) [b](#b) ![c](c.png) [d](b.md) [e](b.md#e) [f](b.md#f) [g](https://g)\n"
    path.write_text(text)
    other.write_text("## E\n```\n# F\n```\n")
    assert dead_links(path, text) == ["#b", "c.png", "b.md#f"]
    text = "```\npython tool_a.py x \\\n    --y  # z\nsrun python tutorial_train.py a=1\npython -m bench.flops\n```\n"
    assert commands(path, text) == [("a.md", "tool_a.py", ["x", "--y"]), ("a.md", "tutorial_train.py", ["a=1"])]
    text = "```\ntorchrun --nproc-per-node=4 tutorial_train.py devices=4\n```\n"
    assert commands(path, text) == [("a.md", "tutorial_train.py", ["devices=4"])]
