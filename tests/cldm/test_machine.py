"""Flags to the machine that they describe."""

import argparse

import pytest

from cldm.machine import Machine, add_machine_flags


def machine(*words: str, detector: bool = True) -> Machine:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device")
    add_machine_flags(parser, "control_sd15_canny", detector=detector)
    return Machine.of(parser.parse_args(words))


def test_without_flags_it_is_the_default_with_and_without_a_detector():
    assert machine() == machine(detector=False) == Machine()


def test_every_flag_has_its_place():
    words = "--checkpoint a b --config c --device cuda:1 --precision bfloat16 --save-memory --compile --detector d"
    assert machine(*words.split()) == Machine(("a", "b"), "c", "cuda:1", "bfloat16", True, True, "d")


def test_the_help_says_which_architecture_is_taken():
    parser = argparse.ArgumentParser()
    add_machine_flags(parser, "control_sd15_canny")
    said = " ".join(parser.format_help().split())
    assert "models/cldm_v21.yaml, of Stable Diffusion 2.1 at 512 pixels, if the name of a --checkpoint has sd21" in said
    assert "docs/generate.md" in said


def test_an_unknown_precision_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit):
        machine("--precision", "int8")
    assert "invalid choice: 'int8' (choose from" in capsys.readouterr().err
