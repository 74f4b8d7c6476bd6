"""The DDIM sampler under the name that users' scripts import."""

from ldm.models.diffusion.ddim import DDIMSampler

__all__ = ["DDIMSampler"]
