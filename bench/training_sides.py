"""A training step of Stable Diffusion 1.5's ControlNet, by us and as in diffusers' train_controlnet example.

Both sides have the same weights, and are given the same image, prompt, hint, noise and time step. In one process they
share what is locked.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cldm.cache.stand_ins import CachedTexts
from cldm.cldm import ControlLDM
from cldm.freed_memory import keep_freed_memory
from cldm.model import create_model
from cldm.training import Settings
from cldm.training.cost import economise
from cldm.training.guard import are_finite
from ldm.deferred import HandedOver, known_buffers, shapes
from ldm.models.diffusion.ddpm import MOMENTS
from ldm.models.diffusion.draws import INDEX, Draws
from ldm.modules.encoders.modules import END_TOKEN, VOCABULARY, tokenize
from tests.diffusers_names import autoencoder_names, controlnet_names, copy_weights, unet_names

CONFIG = "models/cldm_v15.yaml"
PROMPT = "pale golden rod circle with old lace background"
MAX_GRAD_NORM = 1.0  # of diffusers' example
LEARNING_RATE = 1e-5

_CACHED = Settings(cache=True, device="cpu", batch_size=1, learning_rate=LEARNING_RATE, gradient_clip=MAX_GRAD_NORM)
VARIANTS: dict[str, Settings] = {
    "no cache": replace(_CACHED, cache=False),
    "cache": _CACHED,
    "in backward": replace(_CACHED, gradient_clip=0.0, optimizer_in_backward=True),
    "checkpointing": replace(_CACHED, gradient_checkpointing=True),
    "locked bf16": replace(_CACHED, locked_precision="bf16"),
    "adamw_bf16": replace(_CACHED, optimizer="adamw_bf16"),
    "low memory": replace(_CACHED, gradient_clip=0.0, low_memory=True),
}
"""Name of a row -> settings of our side."""


def image(side: int) -> dict[str, Any]:
    """A batch of one, as a dataset gives it."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, side, side, 3, generator=generator)
    return {"jpg": pixels * 2 - 1, "hint": pixels.round(), "txt": [PROMPT], INDEX: torch.tensor([7])}


def build(config: str = CONFIG, device: str = "cpu") -> ControlLDM:
    """A model with random weights, none of which is without effect; on "meta" it has shapes only."""
    model = create_model(config)
    if device == "meta":
        return model.to(device).train()
    line = torch.randn(2**20 + 1, generator=torch.Generator().manual_seed(0))
    schedule = known_buffers(model)
    weights = {}
    for name, shape in shapes(model).items():
        count, is_gain = math.prod(shape), len(shape) == 1 and name.endswith("weight")
        scale = math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1
        values = (line * scale + float(is_gain)).repeat(count // len(line) + 1)[:count].clone()
        weights[name] = schedule.get(name, values.reshape(shape))
    model.load_state_dict(HandedOver(weights, "random weights"), assign=True)
    return model.train()


class Ours:
    """Our model, set up by a run's settings, and what its cache holds.

    Args:
        model: With both encoders; with a cache, they are taken out.
        settings: Of the run.
        batch: As `image` makes it.
    """

    def __init__(self, model: ControlLDM, settings: Settings, batch: dict[str, Any]):
        self.model, self.settings, self.batch = model, settings, batch
        keep_freed_memory(settings.device)
        if settings.cache:
            self._cache()
        model.learning_rate = settings.learning_rate
        economise(model, settings)
        self.optimizer = model.configure_optimizers()

    @torch.no_grad()
    def _cache(self) -> None:
        model = self.model
        posterior = model.posterior_of(self.batch)
        moments = torch.cat([posterior.mean, posterior.logvar], dim=1)
        self.batch = {**{k: v for k, v in self.batch.items() if k != "jpg"}, MOMENTS: moments}
        model.cond_stage_model = CachedTexts({PROMPT: 0}, [model.get_learned_conditioning([PROMPT])[0]])
        model.first_stage_model = nn.Identity()
        model.cond_stage_model.to(moments.device)

    def networks(self) -> list[nn.Module]:
        """All that is in memory."""
        return [self.model]

    def step(self) -> Tensor:
        """One training step; returns its loss."""
        loss = self.optimizer.step(self._closure)
        self.optimizer.zero_grad()
        return loss

    def gradients(self) -> Tensor:
        """The loss and its backward pass."""
        loss = self.model.training_step(self.batch, 0)
        loss.backward()
        return loss.detach()

    def _closure(self) -> Tensor:
        loss = self.gradients()
        are_finite(self.optimizer)  # as the guard of every training asks
        if self.settings.gradient_clip:
            trained = (p for group in self.optimizer.param_groups for p in group["params"])
            nn.utils.clip_grad_norm_(trained, self.settings.gradient_clip)
        return loss


@dataclass(frozen=True)
class Example:
    """How diffusers' example is run.

    Attributes:
        clips: Clip gradients, as the example does.
        keep_gradients: Fill gradients with zeros after a step, as the example does without --set_grads_to_none.
        fused: Step AdamW in one kernel, as ours does; the example has no such flag.
        keep_freed_memory: As ours does on a CPU; to the example, that is a setting of the process's environment.
    """

    clips: bool = True
    keep_gradients: bool = True
    fused: bool = False
    keep_freed_memory: bool = False


@dataclass
class Theirs:
    """diffusers' networks and the example's step.

    Args:
        unet: UNet2DConditionModel.
        controlnet: ControlNetModel.
        vae: AutoencoderKL.
        text_encoder: transformers' CLIPTextModel.
        scheduler: DDPMScheduler.
        batch: As `image` makes it.
        example: How it is run.
    """

    unet: Any
    controlnet: Any
    vae: Any
    text_encoder: Any
    scheduler: Any
    batch: dict[str, Any]
    example: Example

    @classmethod
    def of(cls, model: ControlLDM, batch: dict[str, Any], example: Example) -> "Theirs":
        """The networks with the weights of `model`, which still has its encoders; the trained ones are copied."""
        from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        text = CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            hidden_act="quick_gelu",
        )
        levels = 4
        with torch.device("meta"):
            unet = UNet2DConditionModel(cross_attention_dim=768)
            controlnet = ControlNetModel(cross_attention_dim=768)
            vae = AutoencoderKL(
                down_block_types=["DownEncoderBlock2D"] * levels,
                up_block_types=["UpDecoderBlock2D"] * levels,
                block_out_channels=[128, 256, 512, 512],
                layers_per_block=2,
            )
        text_encoder = CLIPTextModel(text)
        copy_weights(model.model.diffusion_model, unet, unet_names(unet), share=True)
        copy_weights(model.control_model, controlnet, controlnet_names(controlnet), share=True)
        copy_weights(model.first_stage_model, vae, autoencoder_names(vae), share=True)
        ours = model.cond_stage_model.transformer["text_model"].state_dict()
        text_encoder.load_state_dict(ours, strict=False, assign=True)  # position_ids are theirs
        for parameter in controlnet.parameters():
            parameter.data = parameter.data.clone()
        for locked in (unet, vae, text_encoder):
            locked.requires_grad_(False)
        scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        return cls(unet, controlnet.train(), vae, text_encoder, scheduler, batch, example)

    def __post_init__(self):
        if self.example.keep_freed_memory:
            keep_freed_memory("cpu")
        fused = self.example.fused or None  # None is torch's own choice
        self.optimizer = torch.optim.AdamW(self.controlnet.parameters(), lr=LEARNING_RATE, fused=fused)
        self.rate = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)

    def networks(self) -> list[nn.Module]:
        """All that is in memory."""
        return [self.unet, self.controlnet, self.vae, self.text_encoder]

    def step(self) -> Tensor:
        """One training step; returns its loss."""
        loss = self.gradients()
        if self.example.clips:
            nn.utils.clip_grad_norm_(self.controlnet.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        self.rate.step()
        self.optimizer.zero_grad(set_to_none=not self.example.keep_gradients)
        return loss

    def gradients(self) -> Tensor:
        """The loss and its backward pass."""
        pixels, hint = (rearrange(self.batch[key], "b h w c -> b c h w").contiguous() for key in ("jpg", "hint"))
        draws = Draws(0, 0, self.batch[INDEX].tolist())
        posterior = self.vae.encode(pixels.to(self.vae.device)).latent_dist
        latents = (posterior.mean + posterior.std * draws.posterior(posterior.mean)) * 0.18215
        noise = draws.noise(latents)
        timesteps = draws.timesteps(1000).to(latents.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        ids = tokenize(self.batch["txt"], pad=END_TOKEN).to(latents.device)
        context = self.text_encoder(ids)[0]
        down, middle = self.controlnet(
            noisy,
            timesteps,
            encoder_hidden_states=context,
            controlnet_cond=hint.to(latents.device),
            return_dict=False,
        )
        predicted = self.unet(
            noisy,
            timesteps,
            encoder_hidden_states=context,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        loss = F.mse_loss(predicted.float(), noise.float(), reduction="mean")
        loss.backward()
        return loss.detach()
