"""ControlNet (Zhang, Rao & Agrawala, arXiv:2302.05543) around a latent diffusion model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from cldm.conditions import AppliedControl, KeysByNetwork, context_of, one_after_the_other, summed
from cldm.optimization import Optimization, configure
from cldm.weights.expected import POSITION_IDS, check_names, shapes_of, with_position_ids
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.ddpm import Batch, LatentDiffusion
from ldm.models.diffusion.draws import Draws
from ldm.modules.attention import Context
from ldm.modules.blocks import repeated, zeroed
from ldm.modules.diffusionmodules.openaimodel import UNetEncoder, UNetModel
from ldm.modules.diffusionmodules.resblock import TimestepEmbedSequential
from ldm.util import choose_device, instantiate_from_config

_HINT_CHANNELS = ((16, 1), (16, 1), (32, 2), (32, 1), (96, 2), (96, 1), (256, 2))
"""Output channels and stride of the hint encoder's convolutions before the zero one; the paper's section 3.3
describes a shorter one, published weights have this."""


def hint_encoder(hint_channels: int, out_channels: int) -> TimestepEmbedSequential:
    """The convolutions that take a control image to the size of a latent; the last one is zero at first."""
    layers: list[nn.Module] = []
    channels = hint_channels
    for width, stride in _HINT_CHANNELS:
        layers += [nn.Conv2d(channels, width, 3, stride=stride, padding=1), nn.SiLU()]
        channels = width
    return TimestepEmbedSequential(*layers, zeroed(nn.Conv2d(channels, out_channels, 3, padding=1)))


class ControlNet(UNetEncoder):
    """A trainable copy of the U-Net's encoder that sees a control image.

    With `global_average_pooling`, an attribute that `ControlLDM` and loading set, it says the same at every place: its
    outputs' means, (b, c, 1, 1).

    Args:
        hint_channels: Of the control image.
        encoder: The arguments of `UNetEncoder`, the same as the U-Net's.
    """

    def __init__(self, *, hint_channels: int, **encoder: Any):
        super().__init__(**encoder)
        self.hint_channels = hint_channels
        self.global_average_pooling = False
        self.input_hint_block = hint_encoder(hint_channels, self.model_channels)
        self.zero_convs = nn.ModuleList(
            TimestepEmbedSequential(zeroed(nn.Conv2d(channels, channels, 1))) for channels in self.skip_channels
        )
        self.middle_block_out = TimestepEmbedSequential(
            zeroed(nn.Conv2d(self.middle_channels, self.middle_channels, 1))
        )

    @property
    def num_connections(self) -> int:
        """Outputs: one for each input block and one for the middle block; 13 in Stable Diffusion."""
        return len(self.zero_convs) + 1

    @property
    def reductions(self) -> list[int]:
        """How many times smaller than the latent each connection is, the middle block's last."""
        return [*self.skip_reductions, self.downsampling]

    def encode_hint(self, hint: Tensor) -> Tensor:
        """Features (b, model_channels, h, w) of a control image, the same at every time step.

        Args:
            hint: (b, hint_channels, H, W) in [0, 1], eight times as high and wide as the latent.

        Raises:
            ValueError: If the number of channels is another.
        """
        if hint.ndim != 4 or hint.shape[1] != self.hint_channels:
            raise ValueError(f"hint must be (b, {self.hint_channels}, H, W), got {tuple(hint.shape)}")
        h = hint.to(self.dtype, memory_format=torch.channels_last)  # few channels: a CPU's kernels are faster so
        for layer in self.input_hint_block:
            h = layer(h)
        return h.contiguous()

    def forward(
        self, x: Tensor, hint: Tensor | None, timesteps: Tensor, context: Context, guided_hint: Tensor | None = None
    ) -> list[Tensor]:
        """What is to be added to the locked U-Net's skips and to its middle block's output.

        Args:
            x: Noisy latent, (b, in_channels, h, w).
            hint: Control image, (b, hint_channels, 8h, 8w) in [0, 1]; not needed with `guided_hint`.
            timesteps: (b,).
            context: Tokens of the prompts, (b, n, context_dim), or this network's `text_keys` of them. There may be k b
                prompts: all latents with the first b, then with the next.
            guided_hint: The control image's features if `encode_hint` has run already, (1 or b, ...).

        Returns:
            `num_connections` tensors, the input blocks' in their order, then the middle block's; of b rows up to the
            first attention to the prompt, and of as many as there are prompts from there on.

        Raises:
            ValueError: If the control image is not eight times as large as the latent.
        """
        if guided_hint is None:
            if hint is None:
                raise ValueError("a ControlNet needs hint or guided_hint, got neither")
            guided_hint = self.encode_hint(hint)
        if guided_hint.shape[-2:] != x.shape[-2:]:
            wanted, given = (tuple(8 * side for side in like.shape[-2:]) for like in (x, guided_hint))
            raise ValueError(f"hint must be {wanted} for a latent of {tuple(x.shape[-2:])}, got {given}")
        context = self.read(context)
        emb = self.embed(timesteps, context)
        outputs = self.encode(x.to(self.dtype), emb, context, guided_hint)
        zero_convs = [*self.zero_convs, self.middle_block_out]
        control = [zero_conv(h, emb, context) for zero_conv, h in zip(zero_convs, outputs, strict=True)]
        return [c.mean(dim=(2, 3), keepdim=True) for c in control] if self.global_average_pooling else control


class ControlledUnetModel(UNetModel):
    """The U-Net with its encoder locked and its decoder open to a ControlNet's outputs."""

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Context,
        control: Sequence[Tensor] | None = None,
        only_mid_control: bool = False,
    ) -> Tensor:
        """Predict from a noisy latent; see `UNetModel.forward`.

        Args:
            x: Noisy latent, (b, in_channels, h, w).
            timesteps: (b,).
            context: Tokens of the prompts, (b or k b, n, context_dim), or this network's `text_keys` of them.
            control: A ControlNet's outputs; None for the plain U-Net.
            only_mid_control: Use the last of them alone.

        Raises:
            ValueError: If there are more or fewer outputs than the U-Net has connections.
        """
        context = self.read(context)
        with torch.no_grad():
            emb = self.embed(timesteps, context)
            *skips, h = self.encode(x.to(self.dtype), emb, context)
        if control is not None:
            if len(control) != len(skips) + 1:
                raise ValueError(f"control must have {len(skips) + 1} tensors, got {len(control)}")
            *added, middle = (c.to(self.dtype) for c in control)
            h = h + middle
            if not only_mid_control:
                skips = [_added(skip, c) for skip, c in zip(skips, added, strict=True)]
        return self.decode(h, skips, emb, context).to(x.dtype)


def _added(skip: Tensor, control: Tensor) -> Tensor:
    rows = max(len(skip), len(control))
    return repeated(skip, rows) + repeated(control, rows)


class ControlLDM(LatentDiffusion):
    """A latent diffusion model with a ControlNet.

    Attributes that users' scripts set: `LatentDiffusion`'s, `sd_locked` (False trains the U-Net's decoder too),
    `only_mid_control`, `control_scales`, the connections' weights where a condition brings none, and `optimization`.

    Args:
        control_stage_config: Target and parameters of the ControlNet.
        control_key: Of a batch's control images.
        only_mid_control: Use the middle block's connection alone.
        global_average_pooling: Average the ControlNet's outputs over all places, as ControlNet 1.1's "shuffle" does.
        latent_diffusion: The arguments of `LatentDiffusion`.
    """

    def __init__(
        self,
        control_stage_config: Mapping[str, Any],
        control_key: str,
        only_mid_control: bool = False,
        global_average_pooling: bool = False,
        **latent_diffusion: Any,
    ):
        super().__init__(**latent_diffusion)
        self.control_model = instantiate_from_config(control_stage_config)
        self.control_model.global_average_pooling = global_average_pooling
        self.control_key = control_key
        self.only_mid_control = only_mid_control
        self.sd_locked = True
        self.optimization = Optimization()
        self._locked_for_mid_control = False
        self.control_scales = [1.0] * self.control_model.num_connections

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """As `nn.Module.load_state_dict`; a noise schedule that is not given stays, `position_ids` may be given.

        Raises:
            ValueError: If names or shapes are not the model's, with `strict`.
        """
        given = {**self._buffers, **state_dict}
        given.pop(POSITION_IDS, None)
        if strict:
            source = getattr(state_dict, "source", "the given state dict")
            check_names(shapes_of(given), shapes_of(self.state_dict()), source)
        return super().load_state_dict(given, strict, assign)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write what older strict loaders ask for."""
        checkpoint["state_dict"] = with_position_ids(checkpoint["state_dict"])

    def get_input(
        self, batch: Batch, k: str | None = None, bs: int | None = None, *, draws: Draws | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Scaled latents and the condition of a batch, with the control images (b, H, W, c) in [0, 1]."""
        z, cond = super().get_input(batch, k, bs, draws=draws)
        hint = rearrange(batch[self.control_key][:bs], "b h w c -> b c h w").to(self.device)
        return z, {**cond, "c_concat": [hint.contiguous()]}

    def prepare_condition(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        """The same condition for many time steps: control images and prompts are encoded at the first one alone.

        Where `apply_model` has been replaced, it gets the condition as it is, at every step.
        """
        if not self.broadcasts_latents:
            return dict(cond)
        text_keys = KeysByNetwork(one_after_the_other(cond["c_crossattn"]))
        return {"c_crossattn": cond["c_crossattn"], "controls": self._controls(cond), "text_keys": text_keys}

    @property
    def broadcasts_latents(self) -> bool:
        """Whether `apply_model` takes a condition of k rows for each latent; one that replaces it may not."""
        return getattr(self.apply_model, "__func__", None) is ControlLDM.apply_model

    def apply_model(self, x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """The controlled U-Net's output.

        Args:
            x: Noisy latent, (b, c, h, w).
            t: Time steps, (b,).
            cond: "c_crossattn": [tokens (b or k b, n, context_dim), ...]; "c_concat": [control images (b, c, H, W) in
                [0, 1], ...], put together by channel, or None for no control; optionally "control_scales", a
                weight for each connection. Or, in the place of the last two, "controls": [AppliedControl, ...],
                whose outputs are summed. Or what `prepare_condition` made of it.
        """
        unet = self.model.diffusion_model
        acting, usual = [c for c in self._controls(cond) if c.acts_at(t)], self.control_scales
        control = summed([c.outputs(x, t, context_of(cond, c.network), usual) for c in acting])
        return unet(x, t, context_of(cond, unet), control=control, only_mid_control=self.only_mid_control)

    def _controls(self, cond: Mapping[str, Any]) -> Sequence[AppliedControl]:
        if "controls" in cond:
            return cond["controls"]
        if not cond.get("c_concat"):
            return []
        hint = torch.cat(cond["c_concat"], dim=1)
        return [AppliedControl(self.control_model, hint, cond.get("control_scales"))]

    @torch.no_grad()
    def get_unconditional_conditioning(self, count: int) -> Tensor:
        """Tokens of `count` empty prompts."""
        return self.get_learned_conditioning([""] * count)

    def trained_parameters(self) -> list[nn.Parameter]:
        """The ControlNet's, and with `sd_locked` False the U-Net's decoder's; all others are locked in place.

        Parts of the ControlNet that a script has locked (`requires_grad_(False)`) stay so. With `only_mid_control`, the
        zero convolutions of the input blocks are locked: nothing depends on them.

        Raises:
            ValueError: If all of the ControlNet is locked.
        """
        network = self.control_model
        if self._locked_for_mid_control and not self.only_mid_control:
            network.zero_convs.requires_grad_(True)
        if not any(p.requires_grad for p in network.parameters()):
            raise ValueError("all of control_model is locked; nothing would be trained: control_model.requires_grad_()")
        if self.only_mid_control:
            network.zero_convs.requires_grad_(False)
        self._locked_for_mid_control = self.only_mid_control
        own = {id(parameter) for parameter in network.parameters()}
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.requires_grad and id(parameter) in own)
        if not self.sd_locked:
            for module in (self.model.diffusion_model.output_blocks, self.model.diffusion_model.out):
                module.requires_grad_(True)
        return [p for p in self.parameters() if p.requires_grad]

    def recompute_activations(self, recompute: bool) -> None:
        """Decide for both networks, whatever their yaml says; see `UNetEncoder.recompute_activations`."""
        for network in (self.control_model, self.model.diffusion_model):
            network.recompute_activations(recompute)

    def configure_optimizers(self) -> Any:
        """As `learning_rate` and `optimization` say; AdamW at a constant rate if nothing else is set."""
        return configure(self.trained_parameters(), self.learning_rate, self.optimization, self._trainer)

    @torch.no_grad()
    def sample_log(self, cond: Mapping[str, Any], batch_size: int, ddim: bool = True, ddim_steps: int = 50, **kwargs):
        """Latents drawn by DDIM for a condition with a control image; returns them and the way there."""
        height, width = (side // 8 for side in cond["c_concat"][0].shape[-2:])
        shape = (self.channels, height, width)
        return DDIMSampler(self).sample(ddim_steps, batch_size, shape, cond, verbose=False, **kwargs)

    @torch.no_grad()
    def log_images(
        self,
        batch: Batch,
        N: int = 4,
        ddim_steps: int = 50,
        ddim_eta: float = 0.0,
        unconditional_guidance_scale: float = 9.0,
        **accepted: Any,
    ) -> dict[str, Any]:
        """What the image log shows of a batch.

        Returns:
            "reconstruction", "samples_cfg_scale_..." (n, 3, H, W) in [-1, 1], "control" (n, c, H, W) likewise,
            and "conditioning", the prompts.
        """
        z, cond = self.get_input(batch, self.first_stage_key, bs=N)
        uncond = {**cond, "c_crossattn": [self.get_unconditional_conditioning(len(z))]}
        scale = unconditional_guidance_scale
        samples, _ = self.sample_log(
            cond,
            len(z),
            ddim_steps=ddim_steps,
            eta=ddim_eta,
            unconditional_guidance_scale=scale,
            unconditional_conditioning=uncond,
        )
        return {
            "reconstruction": self.decode_first_stage(z),
            "control": cond["c_concat"][0] * 2 - 1,
            "conditioning": list(batch[self.cond_stage_key])[:N],
            f"samples_cfg_scale_{scale:.2f}": self.decode_first_stage(samples),
        }

    def low_vram_shift(self, is_diffusing: bool) -> None:
        """Keep on the accelerator only what the next part of a generation needs.

        Args:
            is_diffusing: True before denoising; False before encoding prompts or decoding latents.
        """
        accelerator, rest = choose_device("auto"), torch.device("cpu")
        for module in (self.model, self.control_model):
            module.to(accelerator if is_diffusing else rest)
        for module in (self.first_stage_model, self.cond_stage_model):
            module.to(rest if is_diffusing else accelerator)
