"""Tokens and text encoders against golden outputs, published names and the libraries' own models."""

import numpy as np
import pytest
import torch
from open_clip.transformer import TextTransformer
from transformers import CLIPTextConfig, CLIPTextModel

from ldm.modules.encoders.modules import (
    FrozenCLIPEmbedder,
    FrozenOpenCLIPEmbedder,
    count_tokens,
    tokenize,
    tokenize_whole,
)
from parity import assert_close, fill_module, golden, published_names

START, END = 49406, 49407
SMALL = {"width": 32, "layers": 3, "heads": 4}
PROMPTS = ["pale golden rod circle with old lace background", ""]
POSITION_IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


def small(encoder: type) -> torch.nn.Module:
    model = encoder(**SMALL)
    fill_module(model)
    return model


@pytest.mark.parametrize(("file", "pad"), [("clip_l_text", END), ("openclip_h_text", 0)])
def test_tokens_are_the_golden_ones(file, pad):
    g = golden(file)
    assert torch.equal(tokenize(g["prompts"].tolist(), pad=pad), torch.from_numpy(g["input_ids"]))


@pytest.mark.parametrize("pad", [0, END])
def test_an_empty_prompt_is_start_end_and_padding(pad):
    assert tokenize("", pad=pad).tolist() == [[START, END, *[pad] * 75]]


def test_each_encoder_pads_as_it_was_trained():
    assert (FrozenCLIPEmbedder.pad, FrozenOpenCLIPEmbedder.pad) == (END, 0)


def test_long_prompts_are_cut_before_the_end_token():
    ids = tokenize("circle " * 200)
    assert ids.shape == (1, 77)
    assert ids[0, 0] == START
    assert ids[0, -1] == END
    assert len(set(ids[0, 1:-1].tolist())) == 1
    assert tokenize("circle " * 200, max_length=10)[0].tolist() == [*ids[0, :9].tolist(), END]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("salt &amp; pepper", "salt & pepper"),
        ("caf&eacute;", "café"),
        ("A  Red\nCircle ", "a red circle"),
        ("donâ€™t", "don't"),
    ],
)
def test_texts_are_cleaned_before_they_are_tokenized(written, meant):
    assert torch.equal(tokenize(written), tokenize(meant))


def test_different_prompts_are_different_rows_in_their_order():
    ids = tokenize(["red circle", "blue star"])
    assert torch.equal(ids[0], tokenize("red circle")[0])
    assert torch.equal(ids[1], tokenize(["blue star"])[0])
    assert not torch.equal(ids[0], ids[1])


@torch.no_grad()
def test_clip_gives_the_golden_outputs():
    g = golden("clip_l_text")
    model = FrozenCLIPEmbedder()
    fill_module(model, "cond_stage_model.")
    prompts = g["prompts"].tolist()
    output = model(prompts)
    assert output.shape == (3, 77, 768)
    assert_close(output[..., ::16], g["last_hidden"], "last layer")
    assert_close(output.mean(-1), g["last_hidden_mean"], "mean of the last layer")
    assert_close(model(prompts, clip_skip=2)[..., ::16], g["clip_skip2"], "last but one")


@pytest.mark.slow
@torch.no_grad()
def test_openclip_gives_the_golden_outputs():
    g = golden("openclip_h_text")
    model = FrozenOpenCLIPEmbedder(layer="penultimate")
    fill_module(model, "cond_stage_model.")
    output = model(g["prompts"].tolist())
    assert output.shape == (3, 77, 1024)
    assert_close(output[..., ::32], g["penultimate"])
    assert_close(output.mean(-1), g["penultimate_mean"], "mean")


@pytest.mark.parametrize(
    ("encoder", "file"), [(FrozenCLIPEmbedder, "control_sd15"), (FrozenOpenCLIPEmbedder, "control_sd21")]
)
def test_names_and_shapes_are_the_published_ones(encoder, file):
    with torch.device("meta"):
        model = encoder()
    ours = {f"cond_stage_model.{name}": tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    published = {n: shape for n, (_, shape) in published_names(file).items() if n.startswith("cond_stage_model.")}
    assert ours == {name: shape for name, shape in published.items() if name != POSITION_IDS}
    assert (POSITION_IDS in published) == (encoder is FrozenCLIPEmbedder)


def transformers_clip(ours: FrozenCLIPEmbedder) -> CLIPTextModel:
    """Their small model with our weights."""
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        hidden_act="quick_gelu",
    )
    theirs = CLIPTextModel(config).eval()
    theirs.load_state_dict(ours.transformer["text_model"].state_dict())
    return theirs


@torch.no_grad()
def test_small_clip_is_transformers():
    ours = small(FrozenCLIPEmbedder)
    assert_close(ours(PROMPTS), transformers_clip(ours)(tokenize(PROMPTS, pad=END)).last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("layer_idx", range(-4, 4))
def test_a_hidden_layer_is_transformers_hidden_state(layer_idx):
    ours = FrozenCLIPEmbedder(**SMALL, layer="hidden", layer_idx=layer_idx)
    fill_module(ours)
    theirs = transformers_clip(ours)(tokenize(PROMPTS, pad=END), output_hidden_states=True)
    assert len(theirs.hidden_states) == 4
    assert_close(ours(PROMPTS), theirs.hidden_states[layer_idx])


@torch.no_grad()
def test_a_hidden_layer_is_another_one_where_clip_skip_asks_for_it():
    hidden = FrozenCLIPEmbedder(**SMALL, layer="hidden", layer_idx=-3)
    fill_module(hidden)
    theirs = transformers_clip(hidden)(tokenize(PROMPTS, pad=END), output_hidden_states=True).hidden_states
    for skip in (1, 2, 3, 4):
        assert_close(hidden(PROMPTS, clip_skip=skip), theirs[-skip])
    with pytest.raises(ValueError, match="between 1 and 4, the number of layers and the embedding, got 5"):
        hidden(PROMPTS, clip_skip=5)


@torch.no_grad()
def test_the_last_layer_but_one_is_transformers_hidden_state_after_the_final_norm():
    ours = small(FrozenCLIPEmbedder)
    theirs = transformers_clip(ours)
    state = theirs(tokenize(PROMPTS, pad=END), output_hidden_states=True).hidden_states[-2]
    assert_close(ours(PROMPTS, clip_skip=2), theirs.final_layer_norm(state))


@torch.no_grad()
def test_small_openclip_is_open_clips():
    ours = small(FrozenOpenCLIPEmbedder)
    theirs = TextTransformer(77, 49408, 32, 4, 3, output_dim=32, output_tokens=True).eval()
    theirs.load_state_dict({n: p for n, p in ours.model.state_dict().items() if n != "logit_scale"})
    _, tokens = theirs(tokenize(PROMPTS))
    assert_close(ours(PROMPTS), tokens)


@torch.no_grad()
@pytest.mark.parametrize("encoder", [FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder])
def test_layers_are_counted_from_the_end(encoder):
    model = small(encoder)
    outputs = [model(PROMPTS, clip_skip=skip) for skip in (1, 2, 3)]
    assert torch.equal(model(PROMPTS), outputs[0])
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[1], outputs[2])
    penultimate = encoder(**SMALL, layer="penultimate")
    penultimate.load_state_dict(model.state_dict())
    assert torch.equal(penultimate(PROMPTS), outputs[1])
    assert torch.equal(penultimate(PROMPTS, clip_skip=1), outputs[0])


@torch.no_grad()
@pytest.mark.parametrize("encoder", [FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder])
def test_skipping_the_last_layer_is_the_same_model_without_it(encoder):
    model, shorter = small(encoder), encoder(**{**SMALL, "layers": 2})
    names = shorter.state_dict().keys()
    shorter.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name in names})
    torch.testing.assert_close(model(PROMPTS, clip_skip=2), shorter(PROMPTS))


@torch.no_grad()
@pytest.mark.parametrize("encoder", [FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder])
def test_a_token_sees_only_those_before_it(encoder):
    model = small(encoder)
    short, longer = model("a red circle"), model("a red circle with blue background")
    torch.testing.assert_close(short[:, :4], longer[:, :4])  # start, a, red, circle
    assert not torch.allclose(short[:, 4], longer[:, 4])


@torch.no_grad()
@pytest.mark.parametrize("encoder", [FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder])
def test_a_model_built_without_weights_works_once_they_are_given(encoder):
    model = small(encoder)
    with torch.device("meta"):
        empty = encoder(**SMALL)
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    empty.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(empty(PROMPTS), model(PROMPTS))


@pytest.mark.parametrize("encoder", [FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder])
def test_frozen_unless_asked_otherwise(encoder):
    frozen, free = encoder(**SMALL), encoder(**SMALL, freeze=False)
    assert not frozen.training
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in free.parameters())


@torch.no_grad()
@pytest.mark.parametrize("encoder", [FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder])
def test_prompts_come_one_by_one_or_together(encoder):
    model = small(encoder)
    together = model.encode(PROMPTS)
    assert together.shape == (2, 77, 32)
    torch.testing.assert_close(model(PROMPTS[0])[0], together[0])
    np.testing.assert_allclose(model([PROMPTS[1]])[0], together[1], atol=1e-5)
    assert encoder(**SMALL, max_length=12)(PROMPTS).shape == (2, 12, 32)


def test_keys_of_published_configs_are_accepted():
    FrozenCLIPEmbedder(version="openai/clip-vit-large-patch14", device="cuda", **SMALL)
    FrozenOpenCLIPEmbedder(arch="ViT-H-14", version="laion2b_s32b_b79k", device="cuda", freeze=True, **SMALL)


@pytest.mark.parametrize(
    "version",
    ["/models/clip-vit-large-patch14", "./clip-vit-large-patch14/", r"C:\models\clip-vit-large-patch14"],
)
def test_a_folder_of_the_models_name_is_the_model(version):
    FrozenCLIPEmbedder(version=version, **SMALL)


@pytest.mark.parametrize(
    ("encoder", "arguments", "message"),
    [
        (FrozenCLIPEmbedder, {"version": "openai/clip-vit-base-patch32"}, "got 'openai/clip-vit-base-patch32'"),
        (FrozenCLIPEmbedder, {"version": "clip-vit-large-patch14/x"}, "got 'clip-vit-large-patch14/x'"),
        (FrozenCLIPEmbedder, {"layer": "pooled"}, "layer must be last or penultimate or hidden, got 'pooled'"),
        (FrozenCLIPEmbedder, {"layer": "hidden"}, r"hidden needs a layer_idx between 0, .* and 3, .* -4, got None"),
        (FrozenCLIPEmbedder, {"layer": "hidden", "layer_idx": 4}, "layer: hidden needs a layer_idx .* got 4"),
        (FrozenCLIPEmbedder, {"layer": "hidden", "layer_idx": -5}, "layer: hidden needs a layer_idx .* got -5"),
        (FrozenCLIPEmbedder, {"layer": "hidden", "layer_idx": "-2"}, "layer: hidden needs a layer_idx .* got -2"),
        (FrozenOpenCLIPEmbedder, {"arch": "ViT-L-14"}, "expected the text tower of ViT-H-14, got 'ViT-L-14'"),
        (FrozenOpenCLIPEmbedder, {"layer": "hidden"}, "layer must be last or penultimate, got 'hidden'"),
    ],
)
def test_other_models_are_refused(encoder, arguments, message):
    with pytest.raises(ValueError, match=message):
        encoder(**{**SMALL, **arguments})


@pytest.mark.parametrize(
    ("encoder", "layer", "unused"),
    [
        (FrozenCLIPEmbedder, {}, ()),
        (FrozenCLIPEmbedder, {"layer": "penultimate"}, ("transformer.text_model.encoder.layers.2.",)),
        (
            FrozenCLIPEmbedder,
            {"layer": "hidden", "layer_idx": 1},
            tuple(
                f"transformer.text_model.{part}."
                for part in ("encoder.layers.1", "encoder.layers.2", "final_layer_norm")
            ),
        ),
        (FrozenOpenCLIPEmbedder, {}, ("model.logit_scale", "model.text_projection")),
        (
            FrozenOpenCLIPEmbedder,
            {"layer": "penultimate"},
            ("model.logit_scale", "model.text_projection", "model.transformer.resblocks.2."),
        ),
    ],
)
def test_weights_without_effect_are_those_that_no_gradient_reaches(encoder, layer, unused):
    model = encoder(**SMALL, **layer, freeze=False)
    fill_module(model)
    model(PROMPTS).square().mean().backward()
    unreached = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert sorted(model.without_effect()) == sorted(unreached)
    assert sorted(unreached) == sorted(name for name in model.state_dict() if name.startswith(unused))


@pytest.mark.parametrize("encoder", [FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder])
@pytest.mark.parametrize("skip", [0, -1, 4])
def test_layers_that_there_are_not_are_named(encoder, skip):
    with pytest.raises(ValueError, match=f"clip_skip must be between 1 and 3, the number of layers, got {skip}"):
        encoder(**SMALL)(PROMPTS, clip_skip=skip)


@pytest.mark.parametrize("pad", [0, 49407])
def test_whole_texts_are_rows_of_what_tokenizing_their_parts_gives(pad):
    words = [f"bird {word}" for word in ("tree", "house", "sea")] * 30  # 180 tokens
    text = " ".join(words)
    assert count_tokens(text) == 180
    ids = tokenize_whole([text, "a fish", ""], pad=pad)
    assert ids.shape == (3, 3, 77)
    parts = text.split()
    expected = [" ".join(parts[i : i + 75]) for i in (0, 75, 150)]
    assert torch.equal(ids[0], tokenize(expected, pad=pad))
    assert torch.equal(ids[1], tokenize(["a fish", "", ""], pad=pad))
    assert torch.equal(ids[2], tokenize(["", "", ""], pad=pad))
    assert tokenize_whole("a fish").shape == (1, 1, 77)
