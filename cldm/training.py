"""The settings of a training run, and what `tutorial_train.py` needs besides Lightning."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cldm.cldm import ControlLDM
from cldm.data import find_dataset
from cldm.weights.saving import save_weights

WEIGHT_FORMATS = (".safetensors", ".ckpt", ".pth", ".pt")
_SEEDS = 2**32  # what numpy's seed takes


@dataclass(frozen=True)
class Settings:
    """One training run. Every field can be changed on the command line as `name=value`.

    Attributes:
        config: The yaml of the model.
        resume_path: Weights to start from, as `tool_add_control.py` writes them; the file's other formats do as well.
        dataset: Folder with `prompt.json`, such as Fill50K.
        batch_size: Samples a step.
        learning_rate: Of AdamW; customary with `sd_locked=False` is 2e-6.
        logger_freq: Steps from one image log to the next.
        loss_freq: Steps from one logged loss to the next.
        sd_locked: False trains the U-Net's decoder as well.
        only_mid_control: Use the ControlNet's middle connection alone.
        prompt_dropout: Share of the prompts that are replaced by the empty one, so that the control learns to do
            without; the paper has 0.5. What was dropped is logged as train/prompts_dropped.
        cache: Encode the dataset once, before training, and keep neither encoder in memory then; see `cldm.cache.use`.
            True keeps the cache in the folder cache/ beside prompt.json; a text is another folder. The image log then
            loads the autoencoder from `resume_path` each time, to decode.
        max_steps: Steps in all; -1 goes on until Ctrl-C.
        save_freq: Steps from one saved ControlNet to the next; one is saved at the end as well.
        output: Folder of the run: image_log/, weights and TensorBoard's files.
        device: auto, cpu, cuda or mps.
        precision: Lightning's name, 32-true, bf16-mixed or 16-mixed for instance.
        num_workers: Processes that read the dataset; 0 reads in the training process.
        seed: Of the data's order, and with epoch and place in the dataset, of each sample's noise, time step,
            posterior sample and prompt dropout.
        image_steps: DDIM steps of the samples in the image log.
        image_scale: Guidance scale of the samples in the image log.
    """

    config: str = "./models/cldm_v15.yaml"
    resume_path: str = "./models/control_sd15_ini.ckpt"
    dataset: str = "./training/fill50k"
    batch_size: int = 4
    learning_rate: float = 1e-5
    logger_freq: int = 300
    loss_freq: int = 10
    sd_locked: bool = True
    only_mid_control: bool = False
    prompt_dropout: float = 0.5
    cache: bool | str = False
    max_steps: int = -1
    save_freq: int = 5000
    output: str = "."
    device: str = "auto"
    precision: str = "32-true"
    num_workers: int = 0
    seed: int = 0
    image_steps: int = 50
    image_scale: float = 9.0

    def __post_init__(self):
        for name in ("batch_size", "logger_freq", "loss_freq", "save_freq", "image_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.max_steps < 1 and self.max_steps != -1:
            raise ValueError(f"max_steps must be at least 1, or -1 for no end, got {self.max_steps}")
        if not 0 <= self.prompt_dropout <= 1:
            raise ValueError(f"prompt_dropout must be between 0 and 1, got {self.prompt_dropout}")
        if not 0 <= self.seed < _SEEDS:
            raise ValueError(f"seed must be from 0 to {_SEEDS - 1}, got {self.seed}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be 0 or more, got {self.num_workers}")


def from_command_line(defaults: Settings, arguments: Sequence[str] | None = None) -> Settings:
    """`defaults` with what the command line changes, `name=value` each; prints help, or one message, and exits.

    Args:
        defaults: The settings at the top of a training script.
        arguments: Of the command line; by default this process's.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        names = "\n".join(f"  {name}={value}" for name, value in asdict(defaults).items())
        raise SystemExit(f"{sys.modules['__main__'].__doc__}\n\nSettings and their defaults:\n{names}\n{_meanings()}")
    try:
        return changed(defaults, arguments)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error


def changed(defaults: Settings, assignments: Sequence[str]) -> Settings:
    """`defaults` with some fields changed.

    Args:
        defaults: Where the others come from.
        assignments: `name=value` each.

    Raises:
        ValueError: If one is no assignment, names no setting, or its value is of another type or range.
    """
    known = {field.name for field in fields(defaults)}
    for assignment in assignments:
        name, equals, _ = assignment.partition("=")
        if not equals or name not in known:
            raise ValueError(f"expected name=value with a name of {', '.join(sorted(known))}, got {assignment!r}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(defaults), OmegaConf.from_dotlist(list(assignments)))
    except OmegaConfBaseException as error:
        raise ValueError(str(error).splitlines()[0]) from error
    return replace(defaults, **OmegaConf.to_container(merged))


def _meanings() -> str:
    lines = (Settings.__doc__ or "").split("Attributes:")[1].splitlines()
    return "\n".join(line[6:] for line in lines)


def require(settings: Settings, attach: str) -> Path:
    """The file of weights to start from; everything that the run reads is there after this.

    Args:
        settings: Of the run.
        attach: Script and first argument that attach a ControlNet to a base of this kind.

    Raises:
        FileNotFoundError: If weights, config or dataset are missing, with the commands that make them.
    """
    given = Path(settings.resume_path)
    found = [file for file in (given, *(given.with_suffix(end) for end in WEIGHT_FORMATS)) if file.is_file()]
    missing = []
    if not Path(settings.config).is_file():
        missing.append(f"config {settings.config}: expected a yaml such as ./models/cldm_v15.yaml")
    if not found:
        missing.append(
            f"weights {given}: put a Stable Diffusion into ./models, then attach a ControlNet to it:\n"
            f"    python {attach} {given}"
        )
    try:
        find_dataset(settings.dataset)
    except FileNotFoundError as error:
        missing.append(str(error))
    if missing:
        raise FileNotFoundError("this run needs what is not there\n" + "\n".join(f"- {line}" for line in missing))
    return found[0]


class SaveControl(pl.Callback):
    """Saves the ControlNet alone, which is all that was trained, every so many steps and at the end.

    Args:
        folder: Where `control_<step>.safetensors` are written.
        every: Steps from one to the next.
    """

    def __init__(self, folder: Path, every: int):
        self.folder = Path(folder)
        self.every = every

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: ControlLDM, outputs, batch, batch_idx) -> None:
        if trainer.global_step % self.every == 0:
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: ControlLDM) -> None:
        self._save(trainer, pl_module)

    def _save(self, trainer: pl.Trainer, model: ControlLDM) -> None:
        file = self.folder / f"control_{trainer.global_step:06}.safetensors"
        if trainer.is_global_zero and not file.exists():
            trained = {f"control_model.{name}": tensor for name, tensor in model.control_model.state_dict().items()}
            if not model.sd_locked:
                unet = model.model.diffusion_model
                names = [name for name in unet.state_dict() if name.startswith(("output_blocks.", "out."))]
                trained |= {f"model.diffusion_model.{name}": unet.state_dict()[name] for name in names}
            save_weights(trained, file)
