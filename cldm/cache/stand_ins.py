"""What stands in a model for its encoders while a cache has their outputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

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
    """An autoencoder that is loaded from its file for decoding, as an image log needs it, and then let go.

    Args:
        load: Gives the whole autoencoder, on the CPU.
    """

    def __init__(self, load: Callable[[], AutoencoderKL]):
        super().__init__()
        self.load = load
        self._kept: list[AutoencoderKL] | None = None  # in a list, since it is no part of the model's weights

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Load it once for all decodings inside."""
        self._kept = []
        try:
            yield
        finally:
            self._kept = None

    def encode(self, pixels: Tensor) -> None:
        """Raises ValueError: images are not encoded while there is a cache."""
        raise ValueError("the autoencoder's encoder is not in memory with cache=true; train with cache=false to use it")

    def decode(self, z: Tensor) -> Tensor:
        """As `AutoencoderKL.decode`."""
        autoencoder = self._kept[0] if self._kept else self.load().to(z.device)
        if self._kept is not None:
            self._kept[:] = [autoencoder]
        return autoencoder.decode(z)


def decoding(model: nn.Module) -> AbstractContextManager[None]:
    """Decode several times inside this, one image at a time, at the cost of loading an autoencoder at most once."""
    autoencoder = getattr(model, "first_stage_model", None)
    return autoencoder.kept() if isinstance(autoencoder, DecoderOnDemand) else nullcontext()
