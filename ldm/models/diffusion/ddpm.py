"""Latent diffusion on Lightning (Rombach et al., arXiv:2112.10752)."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from einops import rearrange
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from ldm.models.diffusion.draws import INDEX, Draws
from ldm.models.diffusion.prediction import PARAMETERIZATIONS, add_noise, velocity
from ldm.models.diffusion.schedule import make_beta_schedule, schedule_buffers
from ldm.models.diffusion.weighting import min_snr_weight
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.util import instantiate_from_config, parameter_names

Batch = Mapping[str, Any]

_DONE_ELSEWHERE: dict[str, tuple[str, Any]] = {
    "ckpt_path": ("give the file to cldm.model.load_model, or to training as base=", None),
    "given_betas": ("the schedule follows from linear_start, linear_end and beta_schedule", None),
    "learn_logvar": ("the loss has no learnt variance", False),
    "loss_type": ("the loss is the squared error", "l2"),
    "scale_by_std": ("latents are scaled by scale_factor", False),
    "ucg_training": ("train with prompt_dropout=", None),
    "use_ema": ("train with ema_decay= for averages; generation takes the weights that are loaded", False),
}
"""Keys of the original that do something there: what does it here, and the value that asks for nothing."""

MOMENTS = "posterior_moments"
"""Key in a batch of cached posteriors, mean and log-variance side by side, which stand in for its images."""


class DiffusionWrapper(nn.Module):
    """Holds the U-Net under the name that published weights give it."""

    def __init__(self, unet_config: Mapping[str, Any]):
        super().__init__()
        self.diffusion_model = instantiate_from_config(unet_config)


class LatentDiffusion(pl.LightningModule):
    """Autoencoder, text encoder and U-Net; trained to predict noise or velocity in the latent space.

    Attributes that a training script sets: `learning_rate`; `prompt_dropout`, the share of prompts that are replaced by
    the empty one; `min_snr_gamma`, see `min_snr_weight`, and `noise_offset`, see `Draws.noise`, either off at 0; and
    `seed`, of the draws of batches that say their samples' `INDEX`.

    Args:
        unet_config: Target and parameters of the U-Net.
        first_stage_config: Of the autoencoder, which is never trained here.
        cond_stage_config: Of the text encoder.
        linear_start: First variance of the noise schedule.
        linear_end: Last variance.
        timesteps: Number of time steps.
        beta_schedule: See `make_beta_schedule`.
        parameterization: "eps" or "v".
        first_stage_key: Of a batch's images.
        cond_stage_key: Of a batch's prompts.
        image_size: Side of the latents that the model was trained on.
        channels: Of the latents.
        scale_factor: Latents are the autoencoder's times this.
        cond_stage_trainable: Must be false: the text encoder stays frozen.
        conditioning_key: Must be "crossattn".
        accepted: Other keys, without effect; where one asks for something, a warning says what does it here.

    Raises:
        ValueError: If a parameter asks for what there is not, or is spelt almost as one of those above.
    """

    def __init__(
        self,
        unet_config: Mapping[str, Any],
        first_stage_config: Mapping[str, Any],
        cond_stage_config: Mapping[str, Any],
        *,
        linear_start: float = 1e-4,
        linear_end: float = 2e-2,
        timesteps: int = 1000,
        beta_schedule: str = "linear",
        parameterization: str = "eps",
        first_stage_key: str = "image",
        cond_stage_key: str = "caption",
        image_size: int = 64,
        channels: int = 4,
        scale_factor: float = 1.0,
        cond_stage_trainable: bool = False,
        conditioning_key: str = "crossattn",
        **accepted: Any,
    ):
        super().__init__()
        self._look_at(accepted)
        if parameterization not in PARAMETERIZATIONS:
            raise ValueError(f"parameterization must be one of {PARAMETERIZATIONS}, got {parameterization!r}")
        if conditioning_key != "crossattn" or cond_stage_trainable:
            raise ValueError(
                "expected conditioning_key: crossattn and cond_stage_trainable: false, "
                f"got {conditioning_key!r} and {cond_stage_trainable}"
            )
        self.parameterization = parameterization
        self.first_stage_key = first_stage_key
        self.cond_stage_key = cond_stage_key
        self.image_size = image_size
        self.channels = channels
        self.scale_factor = scale_factor
        self.num_timesteps = timesteps
        self.learning_rate = 1e-5
        self.prompt_dropout = 0.0
        self.min_snr_gamma = 0.0
        self.noise_offset = 0.0
        self.seed = 0
        for name, values in schedule_buffers(
            make_beta_schedule(beta_schedule, timesteps, linear_start, linear_end)
        ).items():
            self.register_buffer(name, values)
        self.model = DiffusionWrapper(unet_config)
        self.first_stage_model = instantiate_from_config(first_stage_config).eval().requires_grad_(False)
        self.cond_stage_model = instantiate_from_config(cond_stage_config).eval().requires_grad_(False)

    def _look_at(self, accepted: Mapping[str, Any]) -> None:
        """Tell what keys without effect may have been meant to do."""
        known = parameter_names(type(self))
        for name, value in accepted.items():
            instead, neutral = _DONE_ELSEWHERE.get(name, ("", value))
            if value and value != neutral:
                rank_zero_warn(f"{name}: {value} in the yaml has no effect: {instead}")
            if name not in known and (close := difflib.get_close_matches(name, known, 1, cutoff=0.9)):
                raise ValueError(f"the model has no parameter {name}; is {close[0]} meant?")

    def train(self, mode: bool = True) -> "LatentDiffusion":
        """Switch between training and evaluation; autoencoder and text encoder always stay in evaluation."""
        super().train(mode)
        self.first_stage_model.eval()
        self.cond_stage_model.eval()
        return self

    @torch.no_grad()
    def get_learned_conditioning(self, prompts: Sequence[str], **how: Any) -> Tensor:
        """Tokens of the prompts, (b, n, context_dim); `how` is the text encoder's to know."""
        return self.cond_stage_model(prompts, **how)

    @torch.no_grad()
    def encode_first_stage(self, pixels: Tensor) -> DiagonalGaussianDistribution:
        """The posterior over unscaled latents of `pixels`, (b, 3, H, W) in [-1, 1]."""
        return self.first_stage_model.encode(pixels)

    def get_first_stage_encoding(self, posterior: DiagonalGaussianDistribution | Tensor) -> Tensor:
        """Scaled latents: a sample of the posterior, or the given unscaled latents."""
        z = posterior if isinstance(posterior, Tensor) else posterior.sample()
        return self.scale_factor * z

    @torch.no_grad()
    def decode_first_stage(self, z: Tensor) -> Tensor:
        """Pixels (b, 3, H, W) around [-1, 1] of scaled latents `z`."""
        return self.first_stage_model.decode(z / self.scale_factor)

    def posterior_of(self, batch: Batch, k: str | None = None, bs: int | None = None) -> DiagonalGaussianDistribution:
        """The posterior over unscaled latents of a batch's images, or of its cached `MOMENTS` (b, 2c, h, w)."""
        if MOMENTS in batch:
            return DiagonalGaussianDistribution(batch[MOMENTS][:bs].to(self.device))
        pixels = rearrange(batch[k or self.first_stage_key][:bs], "b h w c -> b c h w").to(self.device)
        return self.encode_first_stage(pixels)

    def get_input(
        self, batch: Batch, k: str | None = None, bs: int | None = None, *, draws: Draws | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Scaled latents and the condition of a batch.

        Args:
            batch: Images (b, h, w, 3) in [-1, 1] under `first_stage_key`, and prompts under `cond_stage_key`.
            k: Key of the images, if it is another.
            bs: Take so many samples, the first; None takes all.
            draws: Sample the posterior and drop prompts by these; by torch's generator, and none, otherwise.
        """
        posterior, prompts = self.posterior_of(batch, k, bs), list(batch[self.cond_stage_key])[:bs]
        if draws is None:
            z = self.get_first_stage_encoding(posterior)
        else:
            z = self.scale_factor * (posterior.mean + posterior.std * draws.posterior(posterior.mean))
            dropped = draws.dropped(self.prompt_dropout)
            prompts = ["" if drop else prompt for prompt, drop in zip(prompts, dropped, strict=True)]
        return z.float().contiguous(), {"c_crossattn": [self.get_learned_conditioning(prompts)]}

    def apply_model(self, x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """The U-Net's output at the noisy latent `x` (b, c, h, w), time step `t` (b,).

        Args:
            x: Noisy latent.
            t: Time steps, 0 to `num_timesteps` - 1.
            cond: {"c_crossattn": [tokens (b, n, context_dim), ...]}; several are put one after the other.
        """
        return self.model.diffusion_model(x, t, torch.cat(cond["c_crossattn"], dim=1))

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """The noisy latent at time steps `t` (b,) of clean latent and noise, (b, c, h, w); by default fresh noise."""
        noise = torch.randn_like(x_start) if noise is None else noise
        return add_noise(x_start, noise, self._abar(t))

    def errors(self, x_start: Tensor, cond: Mapping[str, Any], t: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of each sample's prediction, (b,), without weights.

        Args:
            x_start: Clean latents, (b, c, h, w).
            cond: See `apply_model`.
            t: Time steps, (b,).
            noise: Like the latents.
        """
        output = self.apply_model(self.q_sample(x_start, t, noise), t, cond)
        target = noise if self.parameterization == "eps" else velocity(x_start, noise, self._abar(t))
        return (output.float() - target).square().mean(dim=(1, 2, 3))

    def p_losses(self, x_start: Tensor, cond: Mapping[str, Any], t: Tensor, noise: Tensor | None = None) -> Tensor:
        """Mean of the samples' errors, a scalar (arXiv:2006.11239, eq. (14)); weighted with `min_snr_gamma`."""
        noise = torch.randn_like(x_start) if noise is None else noise
        errors = self.errors(x_start, cond, t, noise)
        if self.min_snr_gamma:
            errors = errors * min_snr_weight(self.alphas_cumprod[t], self.min_snr_gamma, self.parameterization)
        return errors.mean()

    def forward(self, z: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """The loss at time steps drawn uniformly."""
        t = torch.randint(0, self.num_timesteps, (len(z),), device=z.device)
        return self.p_losses(z, cond, t)

    def draws_of(self, batch: Batch) -> Draws:
        """What chance decides for a batch: by its samples' places if it says them, by torch's generator otherwise."""
        if INDEX in batch:
            return Draws(self.seed, self.current_epoch, batch[INDEX].tolist())
        return Draws.fresh(len(batch[self.cond_stage_key]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        draws = self.draws_of(batch)
        z, cond = self.get_input(batch, self.first_stage_key, draws=draws)
        t, noise = draws.timesteps(self.num_timesteps).to(z.device), draws.noise(z, self.noise_offset)
        loss = self.p_losses(z, cond, t, noise)
        self.log("train/loss_simple", loss, prog_bar=True, batch_size=len(z))
        if self.prompt_dropout:
            share = draws.dropped(self.prompt_dropout).float().mean()
            self.log("train/prompts_dropped", share, batch_size=len(z))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=self.learning_rate)

    def _abar(self, t: Tensor) -> Tensor:
        return self.alphas_cumprod[t][:, None, None, None]
