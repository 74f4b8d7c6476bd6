import numpy as np

from annotator.uniformer.ade20k import CLASSES, NAMES, PALETTE


def test_there_are_150_classes_in_149_colours() -> None:
    assert PALETTE.shape == (150, 3)
    assert PALETTE.dtype == np.uint8
    assert len(set(NAMES)) == 150
    assert len(np.unique(PALETTE, axis=0)) == 149
    assert PALETTE[NAMES.index("road")].tolist() == PALETTE[NAMES.index("skyscraper")].tolist()


def test_colours_are_red_green_blue() -> None:
    assert dict(CLASSES)["sky"] == (6, 230, 230)
    assert dict(CLASSES)["tree"] == (4, 200, 3)
    assert (NAMES[0], NAMES[-1]) == ("wall", "flag")
