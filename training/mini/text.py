"""Train the miniature's text model apart, as CLIP is: from a prompt to what it says, here two colours and a shape."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from cldm.shapes import COLOURS, OUTLINES, Scene, sample_scene
from ldm.modules.encoders.modules import END_TOKEN, FrozenCLIPEmbedder, tokenize
from ldm.util import instantiate_from_config
from training.mini.loop import Plan, train

ADDED_PROMPT = "best quality, extremely detailed"
NEGATIVE_PROMPT = (
    "longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality"
)
"""The apps' words; they say nothing of shapes, and the miniature has to learn that they do not."""

_ADDED_SHARE = 0.3  # of prompts
_BATCH = 64
_SHAPES = list(OUTLINES)


def words_of(scene: Scene, rng: np.random.Generator) -> str:
    """The scene's prompt, sometimes with the words that the apps add."""
    return f"{scene.prompt}, {ADDED_PROMPT}" if rng.random() < _ADDED_SHARE else scene.prompt


def facts_of(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Colours (b, 6) in [-1, 1], the shape's and then the background's, and indices of shapes (b,)."""
    colours = [COLOURS[scene.colour] + COLOURS[scene.background] for scene in scenes]
    return torch.tensor(colours) / 127.5 - 1, torch.tensor([_SHAPES.index(scene.shape) for scene in scenes])


class Reader(nn.Module):
    """The text model, and what reads the facts from each of its tokens; only the text model is kept."""

    def __init__(self, text_model: FrozenCLIPEmbedder, width: int):
        super().__init__()
        self.text_model = text_model
        self.colours = nn.Linear(width, 6)
        self.shape = nn.Linear(width, len(_SHAPES))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Colours (b, n, 6) and logits of shapes (b, n, shapes) of token ids (b, n)."""
        tokens = self.text_model.encode_tokens(ids, clip_skip=1)
        return self.colours(tokens), self.shape(tokens)


@torch.no_grad()
def forget_unused_words(text_model: FrozenCLIPEmbedder) -> None:
    """Set the embeddings of all words that are no part of the miniature's world to zero, in place.

    They get no gradient, so they stay so: an unknown word says nothing, and the file compresses well.
    """
    vocabulary = tokenize([*COLOURS, *OUTLINES, "with background", ADDED_PROMPT, NEGATIVE_PROMPT])
    unused = torch.ones(text_model.transformer["text_model"].config.vocab_size, dtype=torch.bool)
    unused[vocabulary.unique()] = False
    unused[END_TOKEN] = False
    text_model.transformer["text_model"].embeddings.token_embedding.weight[unused] = 0


def read_right(reader: Reader, count: int = 512, seed: int = 1) -> dict[str, float]:
    """Mean error of the colours over 255, and the share of shapes read right, at the end token of held-out prompts."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, from_held_out=True) for _ in range(count)]
    ids = tokenize([scene.prompt for scene in scenes], pad=END_TOKEN)
    with torch.inference_mode():
        colours, shape = (values[torch.arange(count), (ids == END_TOKEN).int().argmax(1)] for values in reader(ids))
    true_colours, true_shape = facts_of(scenes)
    return {
        "colour_error": (colours - true_colours).abs().mean().item() * 127.5,
        "shapes_right": (shape.argmax(1) == true_shape).float().mean().item(),
    }


def main(config: Path, work: Path) -> FrozenCLIPEmbedder:
    """Train, or resume, and return the text model."""
    torch.manual_seed(0)
    stage = OmegaConf.to_container(OmegaConf.load(config).model.params.cond_stage_config)
    text_model = instantiate_from_config(stage, freeze=False)
    forget_unused_words(text_model)
    reader = Reader(text_model, stage["params"]["width"])

    def loss_of(step: int, rng: np.random.Generator) -> Tensor:
        scenes = [sample_scene(rng, from_held_out=False) for _ in range(_BATCH)]
        ids = tokenize([words_of(scene, rng) for scene in scenes], pad=END_TOKEN)
        after_end = (ids == END_TOKEN).float()
        colours, shape = reader(ids)
        true_colours, true_shape = facts_of(scenes)
        errors = F.mse_loss(colours, true_colours[:, None].expand_as(colours), reduction="none").mean(2)
        errors = errors + 0.1 * F.cross_entropy(shape.mT, true_shape[:, None].expand(shape.shape[:2]), reduction="none")
        return (errors * after_end).sum() / after_end.sum()

    plan = Plan("text", steps=800, learning_rate=1e-3)
    return train(plan, reader, loss_of, work, read_right, check_steps=250).text_model
