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


def test_an_unknown_precision_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit):
        machine("--precision", "int8")
    assert "invalid choice: 'int8' (choose from" in capsys.readouterr().err
