"""Transformer blocks of the U-Net (Rombach et al., arXiv:2112.10752, appendix E.2.1)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.modules.blocks import repeated, run, zeroed
from ldm.modules.convolution import Conv2d
from ldm.modules.linear import Linear

_NORM_EPS = 1e-6  # of the group normalisation before a transformer; the residual blocks use 1e-5


class TextKeys(dict["CrossAttention", tuple[Tensor, Tensor]]):
    """A prompt as every attention of one network sees it: attention -> keys and values, (b, heads, n, c) each.

    They do not change from step to step, so they are computed once; see `text_keys`. Goes wherever the prompt's tokens
    go.
    """


Context = Tensor | TextKeys
"""The prompt's tokens, (b, n, context_dim), or what they become in each attention."""


def rows_of(context: Context) -> int:
    """How many prompts there are."""
    return len(next(iter(context.values()))[0]) if isinstance(context, TextKeys) else len(context)


class CrossAttention(nn.Module):
    """Multi-head attention of `x` to `context`, or to itself without one.

    Args:
        query_dim: Channels of `x` and of the output.
        context_dim: Channels of `context`; None for self-attention.
        heads: Number of heads.
        dim_head: Channels of each head.
        dropout: Probability after the output projection.
        upcast_attention: Whether float16 inputs attend in float32: the logits of Stable Diffusion 2.1 overflow in
            half precision.
    """

    def __init__(
        self,
        query_dim: int,
        context_dim: int | None = None,
        heads: int = 8,
        dim_head: int = 64,
        dropout: float = 0.0,
        upcast_attention: bool = False,
    ):
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.upcast_attention = upcast_attention
        self.to_q = Linear(query_dim, inner, bias=False)
        self.to_k = Linear(context_dim or query_dim, inner, bias=False)
        self.to_v = Linear(context_dim or query_dim, inner, bias=False)
        self.to_out = nn.Sequential(Linear(inner, query_dim), nn.Dropout(dropout))

    def keys_and_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """What `context` (b, m, context_dim) is attended by, (b, heads, m, c) each."""
        return self._by_head(self.to_k(context)), self._by_head(self.to_v(context))

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Attend from `x` (b, n, query_dim) to `context` (b, m, context_dim); returns the shape of `x`."""
        q = self._by_head(self.to_q(x))
        if isinstance(context, TextKeys):
            k, v = context[self]
        else:
            k, v = self.keys_and_values(x if context is None else context)
        if self._in_float32(q):
            with torch.autocast(q.device.type, enabled=False):
                attended = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(v.dtype)
        else:
            attended = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(attended, "b heads n c -> b n (heads c)"))

    def _by_head(self, projected: Tensor) -> Tensor:
        return rearrange(projected, "b n (heads c) -> b heads n c", heads=self.heads)

    def _in_float32(self, q: Tensor) -> bool:
        """Whether to attend in float32: where half precision overflows, or is slower, as CPUs' backward passes are."""
        if q.dtype == torch.float16 and self.upcast_attention:
            return True
        trains = q.requires_grad and torch.is_grad_enabled()
        return trains and q.device.type == "cpu" and q.dtype != torch.float32  # 12 times as slow, measured


class GEGLU(nn.Module):
    """A linear layer gated by the GELU of another (Shazeer, arXiv:2002.05202)."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.proj = Linear(dim_in, 2 * dim_out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Two layers, four times as wide between them."""

    def __init__(self, dim: int, dropout: float = 0.0, mult: int = 4):
        super().__init__()
        self.net = nn.Sequential(GEGLU(dim, mult * dim), nn.Dropout(dropout), Linear(mult * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to the prompt and feed-forward, each normalised before and added to its input."""

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int,
        context_dim: int,
        dropout: float = 0.0,
        use_checkpoint: bool = False,
        upcast_attention: bool = False,
        disable_self_attn: bool = False,
    ):
        super().__init__()
        first_context = context_dim if disable_self_attn else None
        self.attn1 = CrossAttention(dim, first_context, heads, dim_head, dropout, upcast_attention)
        self.ff = FeedForward(dim, dropout)
        self.attn2 = CrossAttention(dim, context_dim, heads, dim_head, dropout, upcast_attention)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.disable_self_attn = disable_self_attn
        self.use_checkpoint = use_checkpoint

    def text_attentions(self) -> list[CrossAttention]:
        """Those that attend to the prompt."""
        return [self.attn1, self.attn2] if self.disable_self_attn else [self.attn2]

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Transform `x` (b, n, dim) with a prompt for each row, or for k prompts each: (k b, n, dim)."""
        return run(self._forward, x, context, recompute=self.use_checkpoint)

    def _forward(self, x: Tensor, context: Context) -> Tensor:
        if self.disable_self_attn:
            x = repeated(x, rows_of(context))
        x = x + self.attn1(self.norm1(x), context if self.disable_self_attn else None)
        x = repeated(x, rows_of(context))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over all positions of a feature map, added to it.

    Args:
        in_channels: Of the feature map; `heads * dim_head` inside.
        heads: Number of heads.
        dim_head: Channels of each head.
        depth: Number of blocks.
        context_dim: Channels of the prompt's tokens.
        dropout: Probability in the blocks.
        disable_self_attn: Attend to the prompt twice instead.
        use_linear: Project in and out by linear layers, as Stable Diffusion 2, instead of 1x1 convolutions.
        use_checkpoint: Recompute activations in the backward pass.
        num_groups: Of the group normalisation.
        upcast_attention: See `CrossAttention`.
    """

    def __init__(
        self,
        in_channels: int,
        heads: int,
        dim_head: int,
        depth: int = 1,
        *,
        context_dim: int,
        dropout: float = 0.0,
        disable_self_attn: bool = False,
        use_linear: bool = False,
        use_checkpoint: bool = False,
        num_groups: int = 32,
        upcast_attention: bool = False,
    ):
        super().__init__()
        inner = heads * dim_head
        self.use_linear = use_linear
        self.norm = nn.GroupNorm(num_groups, in_channels, _NORM_EPS)
        self.proj_in = Linear(in_channels, inner) if use_linear else Conv2d(in_channels, inner, 1)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(
                inner, heads, dim_head, context_dim, dropout, use_checkpoint, upcast_attention, disable_self_attn
            )
            for _ in range(depth)
        )
        self.proj_out = zeroed(Linear(inner, in_channels) if use_linear else Conv2d(inner, in_channels, 1))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Transform `x` (b, c, h, w) with a prompt's tokens (b, n, context_dim) each, or k of them: (k b, c, h, w)."""
        h = self.norm(x)
        if not self.use_linear:
            h = self.proj_in(h)
        h = rearrange(h, "b c h w -> b (h w) c").contiguous()
        if self.use_linear:
            h = self.proj_in(h)
        for block in self.transformer_blocks:
            h = block(h, context)
        if self.use_linear:
            h = self.proj_out(h)
        h = rearrange(h, "b (h w) c -> b c h w", h=x.shape[2]).contiguous()
        if not self.use_linear:
            h = self.proj_out(h)
        return repeated(x, len(h)) + h


def text_keys(network: nn.Module, context: Tensor) -> TextKeys:
    """The prompt's tokens `context` (b, n, context_dim) as every attention in `network` sees them."""
    blocks = [module for module in network.modules() if isinstance(module, BasicTransformerBlock)]
    return TextKeys({attn: attn.keys_and_values(context) for block in blocks for attn in block.text_attentions()})
