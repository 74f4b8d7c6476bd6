"""The text encoders of Stable Diffusion 1 and 2, built from their configuration alone.

CLIP: Radford et al., arXiv:2103.00020. OpenCLIP: Cherti et al., arXiv:2212.07143. Nothing is fetched: the
byte-pair vocabulary of both ships inside the open-clip-torch package.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import PureWindowsPath
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ldm.modules.linear import with_own_linear

VOCABULARY = 49408
START_TOKEN = 49406
END_TOKEN = 49407


@cache
def _tokenizer() -> Any:
    from open_clip import tokenizer  # imports much, so not before the first prompt

    return getattr(tokenizer, "_tokenizer", None) or tokenizer.SimpleTokenizer()  # it has made one for itself


def tokenize(texts: str | Sequence[str], max_length: int = 77, pad: int = 0) -> Tensor:
    """Token ids with a start and an end token; longer texts are cut, shorter ones padded.

    Args:
        texts: Prompts.
        max_length: Tokens of each row, start and end included.
        pad: Id of the tokens after the end.

    Returns:
        int64, (number of texts, max_length).
    """
    ids = _tokenizer()([texts] if isinstance(texts, str) else list(texts), context_length=max_length)
    after_end = torch.arange(max_length)[None] > ids.argmax(dim=1, keepdim=True)  # the end token has the largest id
    return ids.masked_fill(after_end, pad)


def count_tokens(text: str) -> int:
    """Tokens of a text, without start and end."""
    return len(_tokenizer().encode(text))


def tokenize_whole(texts: str | Sequence[str], max_length: int = 77, pad: int = 0) -> Tensor:
    """Token ids of texts of any length, in rows that each have a start and an end token.

    Args:
        texts: Prompts.
        max_length: Tokens of each row, start and end included.
        pad: Id of the tokens after the end.

    Returns:
        int64, (number of texts, rows that the longest needs, max_length); shorter texts end in empty rows.
    """
    room = max_length - 2
    texts = [texts] if isinstance(texts, str) else list(texts)
    encoded = [_tokenizer().encode(text) for text in texts]
    rows = max(1, *(-(-len(tokens) // room) for tokens in encoded))
    ids = torch.full((len(texts), rows, max_length), pad)
    for text, tokens in enumerate(encoded):
        for row in range(rows):
            chunk = [START_TOKEN, *tokens[row * room : (row + 1) * room], END_TOKEN]
            ids[text, row, : len(chunk)] = torch.tensor(chunk)
    return ids


class _TextEncoder(nn.Module):
    """What the two encoders share: a frozen network, texts in, tokens out."""

    pad: int
    choices = ("last", "penultimate")

    def __init__(self, layer: str, layers: int, max_length: int, layer_idx: int | None = None):
        super().__init__()
        if layer not in self.choices:
            raise ValueError(f"layer must be {' or '.join(self.choices)}, got {layer!r}")
        self.normed = layer != "hidden"
        self.clip_skip = self.choices.index(layer) + 1 if self.normed else _from_the_end(layer_idx, layers)
        self.layers = layers
        self.max_length = max_length

    def freeze(self) -> None:
        self.eval().requires_grad_(False)

    def without_effect(self) -> list[str]:
        """Names of the weights that the configured layer does not depend on."""
        prefixes = self.prefixes_without_effect()
        return [name for name in self.state_dict() if name.startswith(prefixes)]

    def prefixes_without_effect(self) -> tuple[str, ...]:
        raise TypeError(f"{type(self).__name__} does not say what it does not use")

    def forward(self, texts: str | Sequence[str], clip_skip: int | None = None, whole: bool = False) -> Tensor:
        """Encode prompts.

        Args:
            texts: One or more prompts.
            clip_skip: From which layer, counted from the end (1 is the last); by default the configured one.
            whole: Encode texts that are too long in several rows, each by itself, and put their tokens one after the
                other. They are cut otherwise.

        Returns:
            (number of texts, max_length, width); `max_length` for each row with `whole`, see `tokenize_whole`.

        Raises:
            ValueError: If there is no such layer.
        """
        clip_skip = self.clip_skip if clip_skip is None else clip_skip
        most, what = (self.layers, "layers") if self.normed else (self.layers + 1, "layers and the embedding")
        if not 1 <= clip_skip <= most:
            raise ValueError(f"clip_skip must be between 1 and {most}, the number of {what}, got {clip_skip}")
        device = next(self.parameters()).device
        if not whole:
            return self.encode_tokens(tokenize(texts, self.max_length, self.pad).to(device), clip_skip)
        ids = tokenize_whole(texts, self.max_length, self.pad).to(device)
        encoded = self.encode_tokens(rearrange(ids, "texts rows n -> (texts rows) n"), clip_skip)
        return rearrange(encoded, "(texts rows) n c -> texts (rows n) c", texts=len(ids))

    def encode(self, texts: str | Sequence[str]) -> Tensor:
        return self(texts)

    def encode_tokens(self, ids: Tensor, clip_skip: int) -> Tensor:
        """Encode token ids (b, n); see `forward`."""
        raise TypeError(f"{type(self).__name__} does not say how it encodes tokens")


class FrozenCLIPEmbedder(_TextEncoder):
    """CLIP's text model, ViT-L/14's by default: the last layer after the final layer norm.

    Args:
        version: Accepted for the sake of published configs; only the model that it names is built. It may be a folder
            of that name, which is not read: weights come with the checkpoint.
        device: Likewise; the encoder is made on the current device and moves with the whole model.
        max_length: Tokens of a prompt.
        freeze: Keep it out of training.
        layer: "last", "penultimate", or "hidden", which is the layer of `layer_idx` without the final layer norm; of
            `clip_skip`, where that is asked for.
        layer_idx: 0 is the embedding, 1 the first layer's output, -1 the last one's. Has no effect unless hidden.
        width: Channels of each token.
        layers: Number of transformer layers.
        heads: Attention heads of each.

    Raises:
        ValueError: If `version` names another model, or `layer` or `layer_idx` a layer that there is not.
    """

    pad = END_TOKEN
    choices = ("last", "penultimate", "hidden")

    def __init__(
        self,
        version: str = "openai/clip-vit-large-patch14",
        device: str | None = None,
        max_length: int = 77,
        freeze: bool = True,
        layer: str = "last",
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        layer_idx: int | None = None,
    ):
        from transformers import CLIPTextConfig, CLIPTextModel

        super().__init__(layer, layers, max_length, layer_idx)
        if PureWindowsPath(version).name != "clip-vit-large-patch14":  # splits at / and \
            raise ValueError(f"expected the text model openai/clip-vit-large-patch14, got {version!r}")
        config = CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=max_length,
            hidden_act="quick_gelu",
        )
        text_model = with_own_linear(CLIPTextModel(config))
        text_model.embeddings.position_ids = None  # given at each call: as a buffer it would stay on the meta device
        self.transformer = nn.ModuleDict({"text_model": text_model})  # the level that published names have
        if freeze:
            self.freeze()

    def prefixes_without_effect(self) -> tuple[str, ...]:
        model = "transformer.text_model."
        norm = () if self.normed else (f"{model}final_layer_norm.",)
        return (*(f"{model}encoder.layers.{i}." for i in range(self.layers + 1 - self.clip_skip, self.layers)), *norm)

    def encode_tokens(self, ids: Tensor, clip_skip: int) -> Tensor:
        text_model = self.transformer["text_model"]
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        if clip_skip == 1 and self.normed:
            return text_model(input_ids=ids, position_ids=positions).last_hidden_state
        # Not by way of transformers' hidden states, which it loses in a process that is spawned.
        x = text_model.embeddings(input_ids=ids, position_ids=positions)
        mask = _causal_mask(x)[None, None]
        for block in text_model.encoder.layers[: self.layers + 1 - clip_skip]:
            x = block(x, mask)
        return text_model.final_layer_norm(x) if self.normed else x


class FrozenOpenCLIPEmbedder(_TextEncoder):
    """OpenCLIP's text tower, ViT-H/14's by default, without the visual one.

    Args:
        arch: Accepted for the sake of published configs; only the model that it names is built.
        version: Likewise.
        device: Likewise; the encoder is made on the current device and moves with the whole model.
        max_length: Tokens of a prompt.
        freeze: Keep it out of training.
        layer: "last" or "penultimate"; either goes through the final layer norm.
        width: Channels of each token.
        layers: Number of transformer layers.
        heads: Attention heads of each.

    Raises:
        ValueError: If `arch` names another model, or `layer` another layer.
    """

    pad = 0

    def __init__(
        self,
        arch: str = "ViT-H-14",
        version: str = "laion2b_s32b_b79k",
        device: str | None = None,
        max_length: int = 77,
        freeze: bool = True,
        layer: str = "last",
        width: int = 1024,
        layers: int = 24,
        heads: int = 16,
    ):
        from open_clip.transformer import TextTransformer

        super().__init__(layer, layers, max_length)
        if arch != "ViT-H-14":
            raise ValueError(f"expected the text tower of ViT-H-14, got {arch!r}")
        self.model = TextTransformer(max_length, VOCABULARY, width, heads, layers, output_dim=width)
        self.model.attn_mask = None  # made at each call: as a buffer it would stay on the meta device
        self.model.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())  # unused, but in the published files
        if freeze:
            self.freeze()

    def prefixes_without_effect(self) -> tuple[str, ...]:
        unused = range(self.layers + 1 - self.clip_skip, self.layers)
        blocks = (f"model.transformer.resblocks.{i}." for i in unused)
        return (*blocks, "model.text_projection", "model.logit_scale")

    def encode_tokens(self, ids: Tensor, clip_skip: int) -> Tensor:
        model = self.model
        x = model.token_embedding(ids) + model.positional_embedding[: ids.shape[1]]
        mask = _causal_mask(x)
        blocks = model.transformer.resblocks
        for block in blocks[: len(blocks) - clip_skip + 1]:
            x = block(x, attn_mask=mask)
        return model.ln_final(x)


def _from_the_end(layer_idx: int | None, layers: int) -> int:
    """The layer of that index among the embedding and all layers' outputs, counted from the last, which is 1."""
    if not isinstance(layer_idx, int) or not -layers - 1 <= layer_idx <= layers:
        raise ValueError(
            f"layer: hidden needs a layer_idx between 0, the embedding, and {layers}, the last layer, "
            f"or between -1, the last layer, and {-layers - 1}, got {layer_idx}"
        )
    return -layer_idx if layer_idx < 0 else layers + 1 - layer_idx


def _causal_mask(x: Tensor) -> Tensor:
    return torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
