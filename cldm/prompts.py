"""What becomes of prompts: tokens for the networks, and a word to the user where something is left out."""

from torch import Tensor

from cldm.cldm import ControlLDM
from cldm.settings import Settings
from ldm.modules.encoders.modules import count_tokens

_SHOWN = 40  # characters of a text that are quoted


def encode_prompts(ldm: ControlLDM, prompt: str, settings: Settings) -> tuple[Tensor, Tensor]:
    """Tokens of the prompt with what is added to it, and of the negative one, (1, n, context_dim) each.

    Raises:
        ValueError: If the text encoder has fewer layers than `clip_skip` asks for.
    """
    texts = [settings.full_prompt(prompt), settings.negative_prompt]
    how = {"clip_skip": settings.clip_skip} if settings.clip_skip else {}
    both = ldm.get_learned_conditioning(texts, **how, **({"whole": True} if settings.long_prompts else {}))
    return both[:1], both[1:]


def prompt_notices(ldm: ControlLDM, prompt: str, settings: Settings) -> tuple[str, ...]:
    """A sentence about each prompt that was cut."""
    if settings.long_prompts:
        return ()
    room = ldm.cond_stage_model.max_length - 2  # a start and an end token
    texts = {"prompt": settings.full_prompt(prompt), "negative prompt": settings.negative_prompt}
    counts = {name: count_tokens(text) for name, text in texts.items()}
    return tuple(
        f"The {name} “{_shortened(texts[name])}” has {count} tokens, of which the last {count - room} were left out; "
        "with long_prompts all are read."
        for name, count in counts.items()
        if count > room
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN].rstrip()} …"
