"""What stands in a model for its encoders while a cache has their outputs."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ldm.models.autoencoder import AutoencoderKL


class CachedTexts(nn.Module):
    """A text encoder that only knows prompts encoded before.

    Args:
        places: Prompt -> number of its tokens.
        tokens: Number -> tokens (n, width).
    """

    def __init__(self, places: Mapping[str, int], tokens: Sequence[Tensor]):
        super().__init__()
        self.places = places
        self.tokens = tokens
        self.register_buffer("_here", torch.empty(0), persistent=False)  # moves with the model: where tokens go

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Tokens of the prompts, (b, n, width).

        Raises:
            ValueError: If a prompt is not in the cache.
        """
        for text in texts:
            if text not in self.places:
                raise ValueError(
                    f"the prompt {text!r} is not in the cache, which has those of the dataset's rows and the empty "
                    "one; train with cache=false where the dataset changes prompts"
                )
        return torch.stack([self.tokens[self.places[text]] for text in texts]).to(self._here.device)


class DecoderOnDemand(nn.Module):
    """An autoencoder that is loaded from its file for each decoding, as an image log needs it, and then let go.

    Args:
        load: Gives the whole autoencoder, on the CPU.
    """

    def __init__(self, load: Callable[[], AutoencoderKL]):
        super().__init__()
        self.load = load

    def encode(self, pixels: Tensor) -> None:
        """Raises ValueError: images are not encoded while there is a cache."""
        raise ValueError("the autoencoder's encoder is not in memory with cache=true; train with cache=false to use it")

    def decode(self, z: Tensor) -> Tensor:
        """As `AutoencoderKL.decode`."""
        return self.load().to(z.device).decode(z)
