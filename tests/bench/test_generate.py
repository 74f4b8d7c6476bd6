"""The bench of generation: that it watches our model without changing how it is run."""

import numpy as np

from bench.generate import Watch
from cldm.cldm import ControlLDM
from cldm.loading import load
from cldm.model_files import find_model
from cldm.pipeline import Settings, generate


def test_a_watched_model_runs_as_it_does_without(monkeypatch):
    monkeypatch.setattr(ControlLDM, "apply_model", ControlLDM.apply_model)  # put back at the end
    model = load(find_model("canny"), "cpu")
    rows: list[int] = []
    model.ldm.model.diffusion_model.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    settings = Settings(steps=2, seed=1)
    hint = np.zeros((64, 64, 3), np.uint8)
    plain = generate(model, hint, "red circle", settings).images[0]

    watch = Watch("step")
    watch.over_steps_of(ControlLDM)
    with watch:
        watched = generate(model, hint, "red circle", settings, watch.step_ended).images[0]
    assert np.array_equal(plain, watched)
    assert rows == [1, 1, 1, 1]  # one latent for both prompts: the steps that users get
    assert len(watch.ends) == 3
