"""The stand-ins answer as the encoders did, or say why not."""

import pytest
import torch

import tiny
from cldm.cache.stand_ins import CachedTexts, DecoderOnDemand
from ldm.util import instantiate_from_config


def test_prompts_are_answered_from_the_cache():
    tokens = [torch.zeros(77, 4), torch.ones(77, 4)]
    encoder = CachedTexts({"": 0, "a circle": 1}, tokens)
    assert torch.equal(encoder(["a circle", "", "a circle"]), torch.stack([tokens[1], tokens[0], tokens[1]]))
    assert encoder.to("meta")([""]).device.type == "meta", "tokens go where the model is"
    assert not list(encoder.parameters())
    assert not encoder.state_dict()


def test_another_prompt_is_named():
    with pytest.raises(ValueError, match=r"the prompt 'a star' is not in the cache.*cache=false"):
        CachedTexts({"": 0}, [torch.zeros(77, 4)])(["a star"])


@torch.no_grad()
def test_the_decoder_is_loaded_for_each_decoding_and_not_kept():
    torch.manual_seed(0)
    autoencoder = instantiate_from_config(tiny.AUTOENCODER)
    loaded = []
    stand_in = DecoderOnDemand(lambda: loaded.append(1) or autoencoder)
    assert not list(stand_in.parameters())
    z = torch.randn(1, 4, 4, 4)
    assert torch.equal(stand_in.decode(z), autoencoder.decode(z))
    stand_in.decode(z)
    assert len(loaded) == 2
    assert not list(stand_in.modules())[1:]


def test_images_cannot_be_encoded():
    with pytest.raises(ValueError, match="cache=false"):
        DecoderOnDemand(lambda: None).encode(torch.zeros(1, 3, 64, 64))
