"""The denoising U-Net of Stable Diffusion: the encoder half that ControlNet copies, and the whole."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ldm.modules.attention import BasicTransformerBlock, Context, SpatialTransformer, TextKeys, rows_of, text_keys
from ldm.modules.blocks import repeated, zeroed
from ldm.modules.convolution import Conv2d
from ldm.modules.diffusionmodules.resblock import Downsample, ResBlock, TimestepEmbedSequential, Upsample
from ldm.modules.diffusionmodules.util import timestep_embedding
from ldm.util import check_neutral, parameter_names

_NEUTRAL: Mapping[str, Sequence[Any]] = {
    "adm_in_channels": (None,),
    "conv_resample": (True,),
    "dims": (2,),
    "disable_middle_self_attn": (False,),
    "disable_self_attentions": (None,),
    "n_embed": (None,),
    "num_attention_blocks": (None,),
    "num_classes": (None,),
    "num_heads_upsample": (-1,),
    "predict_codebook_ids": (False,),
    "resblock_updown": (False,),
    "use_new_attention_order": (False,),
    "use_scale_shift_norm": (False,),
}
"""Parameters of the original's networks that these lack, and the values under which the original's are the same."""


@dataclass(frozen=True)
class _Layers:
    """Makes the layers that encoder and decoder are built of; see `UNetEncoder` for what its fields mean."""

    emb_channels: int
    num_heads: int
    num_head_channels: int
    transformer_depth: int
    context_dim: int
    use_linear: bool
    use_checkpoint: bool
    dropout: float
    num_groups: int
    upcast_attention: bool

    def resblock(self, channels: int, out_channels: int) -> ResBlock:
        return ResBlock(channels, self.emb_channels, self.dropout, out_channels, self.use_checkpoint, self.num_groups)

    def transformer(self, channels: int) -> SpatialTransformer:
        heads = _number_of_heads(channels, self.num_heads, self.num_head_channels)
        return SpatialTransformer(
            channels,
            heads,
            channels // heads,
            self.transformer_depth,
            context_dim=self.context_dim,
            use_linear=self.use_linear,
            use_checkpoint=self.use_checkpoint,
            num_groups=self.num_groups,
            upcast_attention=self.upcast_attention,
        )


class UNetEncoder(nn.Module):
    """Time embedding, input blocks and middle block.

    Args:
        in_channels: Of the latent.
        model_channels: At full resolution.
        num_res_blocks: At each resolution.
        attention_resolutions: Downsampling factors at which a transformer follows each residual block.
        channel_mult: Channels of each resolution, as multiples of `model_channels`.
        context_dim: Channels of the prompt's tokens.
        num_heads: Of every attention, unless `num_head_channels` is given.
        num_head_channels: Channels of each head, whose number then grows with the channels; -1 is not given.
        transformer_depth: Blocks of each transformer.
        use_linear_in_transformer: As in Stable Diffusion 2; see `SpatialTransformer`.
        use_checkpoint: Recompute activations in the backward pass: less memory, more time.
        dropout: Probability in the residual blocks.
        num_groups: Of every group normalisation.
        upcast_attention: Attend in float32 when the network is float16; by default where
            `use_linear_in_transformer` tells a Stable Diffusion 2.
        use_spatial_transformer: Must be true; a U-Net without a prompt is not provided.
        image_size: Accepted for the sake of published configs, without effect, as are `legacy` and `use_fp16`.
        legacy: See `image_size`.
        use_fp16: See `image_size`.
        neutral: Other parameters of published configs, such as `conv_resample`, at the value that changes nothing.

    Raises:
        ValueError: If neither of `num_heads` and `num_head_channels` is given, the one that counts does not divide the
            channels, there is no prompt, a parameter is unknown, or one of those in `neutral` asks for what there is
            not.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        model_channels: int,
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        channel_mult: Sequence[int] = (1, 2, 4, 8),
        context_dim: int | None = None,
        num_heads: int = -1,
        num_head_channels: int = -1,
        transformer_depth: int = 1,
        use_linear_in_transformer: bool = False,
        use_checkpoint: bool = False,
        dropout: float = 0.0,
        num_groups: int = 32,
        upcast_attention: bool | None = None,
        use_spatial_transformer: bool = True,
        image_size: int | None = None,
        legacy: bool = False,
        use_fp16: bool = False,
        **neutral: Any,
    ):
        super().__init__()
        check_neutral(type(self).__name__, neutral, _NEUTRAL, parameter_names(type(self)))
        if not use_spatial_transformer or context_dim is None:
            raise ValueError(
                "expected use_spatial_transformer: true and context_dim (the text encoder's width), "
                f"got {use_spatial_transformer} and {context_dim}"
            )
        if num_heads == num_head_channels == -1:
            raise ValueError("give one of num_heads and num_head_channels, got -1 and -1")
        self.in_channels = in_channels
        self.model_channels = model_channels
        emb_channels = 4 * model_channels
        if upcast_attention is None:
            upcast_attention = use_linear_in_transformer

        layers_of = _Layers(
            emb_channels,
            num_heads,
            num_head_channels,
            transformer_depth,
            context_dim,
            use_linear_in_transformer,
            use_checkpoint,
            dropout,
            num_groups,
            upcast_attention,
        )
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )
        stem = Conv2d(in_channels, model_channels, 3, padding=1)
        self.input_blocks = nn.ModuleList([TimestepEmbedSequential(stem)])
        self.skip_channels = [model_channels]
        self.skip_reductions = [1]  # how many times smaller than the latent
        channels, factor = model_channels, 1
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers: list[nn.Module] = [layers_of.resblock(channels, mult * model_channels)]
                channels = mult * model_channels
                if factor in attention_resolutions:
                    layers.append(layers_of.transformer(channels))
                self.input_blocks.append(TimestepEmbedSequential(*layers))
                self.skip_channels.append(channels)
                self.skip_reductions.append(factor)
            if level != len(channel_mult) - 1:
                self.input_blocks.append(TimestepEmbedSequential(Downsample(channels)))
                factor *= 2
                self.skip_channels.append(channels)
                self.skip_reductions.append(factor)
        self.middle_block = TimestepEmbedSequential(
            layers_of.resblock(channels, channels),
            layers_of.transformer(channels),
            layers_of.resblock(channels, channels),
        )
        self.middle_channels = channels
        self.downsampling = factor
        self._layers = layers_of

    @property
    def dtype(self) -> torch.dtype:
        """The weights' precision, in which the network computes outside autocast."""
        return self.time_embed[0].weight.dtype

    def recompute_activations(self, recompute: bool) -> None:
        """Whether blocks compute activations anew in the backward pass; the config's `use_checkpoint` at first."""
        for module in self.modules():
            if isinstance(module, ResBlock | BasicTransformerBlock):
                module.use_checkpoint = recompute

    def embed(self, timesteps: Tensor, context: Context) -> Tensor:
        """Time embeddings (k b, 4 * model_channels) of `timesteps` (b,), one for each of k b prompts."""
        embedded = timestep_embedding(repeated(timesteps, rows_of(context)), self.model_channels)
        return self.time_embed(embedded.to(self.dtype))

    def read(self, context: Context) -> Context:
        """The prompt's tokens in the network's precision; what they became in each attention stays as it is."""
        return context if isinstance(context, TextKeys) else context.to(self.dtype)

    def text_keys(self, context: Tensor) -> TextKeys:
        """The prompt's tokens (b, n, context_dim) as this network's attentions see them, for use at many time steps."""
        return text_keys(self, context.to(self.dtype))

    def encode(self, x: Tensor, emb: Tensor, context: Context, guided_hint: Tensor | None = None) -> Iterator[Tensor]:
        """Outputs of every input block in order, then of the middle block.

        `guided_hint`, an encoded control image, is added to the first output; it may be one for the whole batch. With k
        times as many prompts as latents, everything before the first attention to the prompt is computed once for each
        latent, and outputs have k times as many rows from there on.

        Raises:
            ValueError: If the latent's sides cannot be halved as often as the network does.
        """
        if any(side % self.downsampling for side in x.shape[-2:]):
            raise ValueError(
                f"a latent's sides must be multiples of {self.downsampling} (an image's of {8 * self.downsampling}), "
                f"got {tuple(x.shape[-2:])}"
            )
        h = x
        for index, block in enumerate(self.input_blocks):
            h = block(h, emb, context)
            if index == 0 and guided_hint is not None:
                h = repeated(h, len(guided_hint)) + guided_hint
            yield h
        yield self.middle_block(h, emb, context)


class UNetModel(UNetEncoder):
    """The whole denoiser: `UNetEncoder` and a decoder fed by its skips.

    Args:
        out_channels: Of the prediction.
        encoder: The arguments of `UNetEncoder`.
    """

    def __init__(self, *, out_channels: int, **encoder):
        super().__init__(**encoder)
        self.out_channels = out_channels
        skips = list(self.skip_channels)
        channels = self.middle_channels
        mult = encoder.get("channel_mult", (1, 2, 4, 8))
        factor = self.downsampling
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(mult))):
            for index in range(encoder["num_res_blocks"] + 1):
                layers: list[nn.Module] = [
                    self._layers.resblock(channels + skips.pop(), mult[level] * self.model_channels)
                ]
                channels = mult[level] * self.model_channels
                if factor in encoder["attention_resolutions"]:
                    layers.append(self._layers.transformer(channels))
                if level and index == encoder["num_res_blocks"]:
                    layers.append(Upsample(channels))
                    factor //= 2
                self.output_blocks.append(TimestepEmbedSequential(*layers))
        self.out = nn.Sequential(
            nn.GroupNorm(encoder.get("num_groups", 32), channels),
            nn.SiLU(),
            zeroed(Conv2d(channels, out_channels, 3, padding=1)),
        )

    def decode(self, h: Tensor, skips: Sequence[Tensor], emb: Tensor, context: Context) -> Tensor:
        """The prediction, from the middle block's output `h` and the input blocks' outputs `skips`, in their order."""
        for block, skip in zip(self.output_blocks, reversed(skips), strict=True):
            h = block(torch.cat([h, repeated(skip, len(h))], dim=1), emb, context)
        return self.out(h)

    def forward(self, x: Tensor, timesteps: Tensor, context: Context) -> Tensor:
        """Predict from a noisy latent.

        Args:
            x: Noisy latent, (b, in_channels, h, w).
            timesteps: (b,), 0 to 999.
            context: Tokens of the prompts, (b, n, context_dim), or this network's `text_keys` of them. There may be k b
                prompts: all latents with the first b, then with the next.

        Returns:
            Predicted noise or velocity, (b or k b, out_channels, h, w), in the precision of `x`.
        """
        context = self.read(context)
        emb = self.embed(timesteps, context)
        *skips, h = self.encode(x.to(self.dtype), emb, context)
        return self.decode(h, skips, emb, context).to(x.dtype)


def _number_of_heads(channels: int, num_heads: int, num_head_channels: int) -> int:
    name, divisor = ("num_heads", num_heads) if num_head_channels == -1 else ("num_head_channels", num_head_channels)
    if divisor < 1 or channels % divisor:
        raise ValueError(f"{name} must divide the number of channels, {channels}, got {divisor}")
    return num_heads if num_head_channels == -1 else channels // num_head_channels
