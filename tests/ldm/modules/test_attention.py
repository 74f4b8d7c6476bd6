"""Transformers against diffusers', and known answers of their parts."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor

from diffusers_names import random_weights
from ldm.modules.attention import (
    GEGLU,
    BasicTransformerBlock,
    CrossAttention,
    FeedForward,
    SpatialTransformer,
    text_keys,
)
from parity import assert_close


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize(("use_linear", "depth"), [(False, 1), (True, 2)])
def test_spatial_transformer_is_diffusers(use_linear, depth):
    ours = SpatialTransformer(32, 4, 8, depth, context_dim=12, use_linear=use_linear, num_groups=8).eval()
    random_weights(ours, seed=1)
    theirs = Transformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=32,
        num_layers=depth,
        cross_attention_dim=12,
        norm_num_groups=8,
        use_linear_projection=use_linear,
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    x, context = normal(2, 32, 5, 7), normal(2, 9, 12, seed=1)
    assert_close(ours(x, context), theirs(x, encoder_hidden_states=context).sample)


def test_a_fresh_transformer_changes_nothing():
    x = normal(2, 32, 5, 7)
    assert torch.equal(SpatialTransformer(32, 4, 8, context_dim=12)(x, normal(2, 9, 12)), x)


def identity_attention(heads: int = 1, upcast_attention: bool = False) -> CrossAttention:
    attention = CrossAttention(4, heads=heads, dim_head=4 // heads, upcast_attention=upcast_attention)
    for layer in (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]):
        layer.weight.data.copy_(torch.eye(4))
    attention.to_out[0].bias.data.zero_()
    return attention


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_softmax_of_scaled_products(heads):
    x, context = normal(1, 3, 4), normal(1, 5, 4, seed=1)
    expected = torch.cat(
        [
            (q @ k.mT / (4 / heads) ** 0.5).softmax(-1) @ k
            for q, k in zip(x.chunk(heads, -1), context.chunk(heads, -1), strict=True)
        ],
        dim=-1,
    )
    torch.testing.assert_close(identity_attention(heads)(x, context), expected)


@torch.no_grad()
def test_attention_without_context_is_to_itself():
    x, attention = normal(2, 3, 4), identity_attention()
    torch.testing.assert_close(attention(x), attention(x, x))
    assert not torch.allclose(attention(x), attention(x, normal(2, 3, 4, seed=1)))


@torch.no_grad()
@pytest.mark.parametrize(
    ("upcast", "given", "computed"),
    [
        (True, torch.float16, torch.float32),
        (False, torch.float16, torch.float16),
        (True, torch.bfloat16, torch.bfloat16),
        (True, torch.float32, torch.float32),
    ],
)
def test_only_float16_is_upcast_and_only_where_asked_for(monkeypatch, upcast, given, computed):
    seen, attend = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v: seen.append(q.dtype) or attend(q, k, v))
    output = identity_attention(upcast_attention=upcast).to(given)(normal(1, 3, 4).to(given))
    assert seen == [computed]
    assert output.dtype == given


@torch.no_grad()
def test_logits_beyond_half_precision_do_not_matter():
    attention = identity_attention(upcast_attention=True).half()
    x = torch.tensor([[[400.0, 0, 0, 0], [0, 400.0, 0, 0]]]).half()  # products of 160,000, above 65,504
    torch.testing.assert_close(attention(x), x)


@torch.no_grad()
def test_feed_forward_by_hand():
    gate = GEGLU(2, 1)
    gate.proj.weight.data.copy_(torch.eye(2))
    gate.proj.bias.data.zero_()
    x = torch.tensor([[3.0, 0.7]])
    torch.testing.assert_close(gate(x), 3 * F.gelu(torch.tensor([[0.7]])))
    layers = FeedForward(6)
    assert layers.net[2].in_features == 24
    torch.testing.assert_close(layers(normal(1, 2, 6)), layers.net[2](layers.net[0](normal(1, 2, 6))))


@torch.no_grad()
def test_self_attention_can_be_replaced_by_a_second_look_at_the_prompt():
    block = BasicTransformerBlock(16, 2, 8, context_dim=12, disable_self_attn=True)
    random_weights(block, seed=0)
    x, context = normal(1, 3, 16), normal(1, 5, 12)
    assert block.attn1.to_k.in_features == 12
    swapped = block(x.flip(1), context).flip(1)
    torch.testing.assert_close(swapped, block(x, context))
    torch.testing.assert_close(block(x[:, :1], context), block(x, context)[:, :1])  # positions do not see each other


def test_recomputing_gives_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        network = SpatialTransformer(32, 4, 8, context_dim=12, use_checkpoint=recompute)
        random_weights(network, seed=0)
        network(normal(1, 32, 4, 4), normal(1, 5, 12)).square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_norm_before_a_transformer_has_the_published_epsilon_and_given_groups():
    norm = SpatialTransformer(32, 4, 8, context_dim=12, num_groups=4).norm
    assert (norm.eps, norm.num_groups) == (1e-6, 4)


@torch.no_grad()
@pytest.mark.parametrize("disable_self_attn", [False, True])
def test_a_prompts_keys_and_values_stand_for_its_tokens(disable_self_attn):
    network = SpatialTransformer(32, 4, 8, depth=2, context_dim=12, disable_self_attn=disable_self_attn).eval()
    random_weights(network, seed=0)
    x, context = normal(2, 32, 4, 4), normal(2, 5, 12, seed=1)
    keys = text_keys(network, context)
    assert len(keys) == (4 if disable_self_attn else 2)
    assert all(k.shape == v.shape == (2, 4, 5, 8) for k, v in keys.values())
    assert torch.equal(network(x, keys), network(x, context))


@torch.no_grad()
@pytest.mark.parametrize("disable_self_attn", [False, True])
def test_one_feature_map_stands_for_several_prompts(disable_self_attn):
    network = SpatialTransformer(32, 4, 8, depth=2, context_dim=12, disable_self_attn=disable_self_attn).eval()
    random_weights(network, seed=0)
    x, context = normal(2, 32, 4, 4), normal(6, 5, 12, seed=1)
    expected = network(torch.cat([x] * 3), context)
    torch.testing.assert_close(network(x, context), expected)
    torch.testing.assert_close(network(x, text_keys(network, context)), expected)
    with pytest.raises(ValueError, match="as many conditions as latents, 2, or a multiple of it, got 3"):
        network(x, context[:3])
