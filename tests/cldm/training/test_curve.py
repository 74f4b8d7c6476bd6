"""The picture of a run."""

import numpy as np
from PIL import Image

from cldm.training.curve import draw_curve


def test_a_curve_is_drawn_and_drawn_again_over_itself(tmp_path):
    file = tmp_path / "curve.png"
    draw_curve(file, [(0, 0.1), (20, 0.9)], {"loss": [(10, 0.5), (20, 0.25)]}, "IoU")
    before = np.array(Image.open(file))
    assert before.shape[1] > 400
    draw_curve(file, [(0, 0.1), (20, 0.9)], {"loss": [(10, 0.5), (20, 0.25)]}, "IoU", learned=20)
    after = np.array(Image.open(file))
    orange = (after[..., :3] == (255, 127, 14)).all(axis=2)
    assert orange.any(axis=1).sum() > 100, "an upright line where the control was learnt"
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


def test_without_losses_there_is_a_curve_still(tmp_path):
    draw_curve(tmp_path / "curve.png", [(0, 0.1)], {"training": []})
    assert Image.open(tmp_path / "curve.png").size[0] > 400
