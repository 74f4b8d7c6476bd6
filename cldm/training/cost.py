"""What a training run is to save of memory and time, done to its model."""

import torch

from cldm.cldm import ControlLDM
from cldm.compiling import compile_network
from cldm.training.settings import Settings
from ldm.util import choose_device


def economise(model: ControlLDM, settings: Settings) -> None:
    """Set up a model as a run's settings say.

    Args:
        model: As it was loaded; it is changed.
        settings: Of the run.
    """
    model.optimization = settings.optimization
    model.recompute_activations(settings.recomputes)
    if settings.locked_in_bf16:
        model.model.diffusion_model.to(torch.bfloat16)
        model.cond_stage_model.to(torch.bfloat16)  # the autoencoder stays: its latents are what is learnt from
    if settings.compile:
        for network in (model.control_model, model.model.diffusion_model):
            compile_network(network, choose_device(settings.device))
