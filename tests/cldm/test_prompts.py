"""Prompts: long ones in chunks that are encoded apart, layers to skip, and notices of what was cut."""

import pytest
import torch

import tiny
from cldm.prompts import encode_prompts, prompt_notices
from cldm.settings import Settings
from ldm.modules.encoders.modules import count_tokens

TWO_LAYERS = {**tiny.CLIP, "params": {**tiny.CLIP["params"], "layers": 2}}
WORDS = "red bird on a tree "  # five tokens
LONG = (WORDS * 40).strip()  # 200 tokens: chunks of 75, 75 and 50


@pytest.fixture(scope="module")
def model():
    return tiny.control_ldm(cond_stage_config=TWO_LAYERS)


def changed(**changes) -> Settings:
    return Settings(**{"added_prompt": "", "negative_prompt": "blur", **changes})


def test_a_long_prompt_is_its_chunks_encoded_apart(model):
    assert count_tokens(LONG) == 200
    prompt, negative = encode_prompts(model, LONG, changed(long_prompts=True))
    words = LONG.split()
    apart = [model.get_learned_conditioning([" ".join(words[i : i + 75])]) for i in (0, 75, 150)]
    torch.testing.assert_close(prompt, torch.cat(apart, dim=1))
    empty = model.get_learned_conditioning([""])
    torch.testing.assert_close(negative, torch.cat([model.get_learned_conditioning(["blur"]), empty, empty], dim=1))


def test_a_short_prompt_is_the_same_either_way(model):
    for ours, theirs in zip(
        encode_prompts(model, "a bird", changed()),
        encode_prompts(model, "a bird", changed(long_prompts=True)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_cut_prompt_is_told_of_and_a_whole_one_is_not(model):
    assert prompt_notices(model, "a bird", changed()) == ()
    assert prompt_notices(model, LONG, changed(long_prompts=True)) == ()
    (notice,) = prompt_notices(model, LONG, changed())
    assert "The prompt “red bird on a tree" in notice
    assert "has 200 tokens, of which the last 125 were left out; with long_prompts" in notice
    both = prompt_notices(model, LONG, changed(negative_prompt=LONG))
    assert both[1].startswith("The negative prompt")


def test_layers_are_skipped_as_asked(model):
    default, _ = encode_prompts(model, "a bird", changed())
    last, _ = encode_prompts(model, "a bird", changed(clip_skip=1))
    skipped, _ = encode_prompts(model, "a bird", changed(clip_skip=2))
    assert torch.equal(default, last)
    assert not torch.allclose(last, skipped)
    torch.testing.assert_close(skipped, model.cond_stage_model(["a bird"], clip_skip=2))
    with pytest.raises(ValueError, match="clip_skip must be between 1 and 2, the number of layers, got 3"):
        encode_prompts(model, "a bird", changed(clip_skip=3))
