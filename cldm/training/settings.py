"""The settings of a training run."""

from dataclasses import dataclass

SAVE_PRECISIONS = ("float32", "float16", "bfloat16")

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
        base: Start from this Stable Diffusion instead of `resume_path`; with `control`, or with a fresh ControlNet.
        control: Start from this ControlNet, published or your own, in any known shape; on `base`, or on the one in
            `resume_path`.
        resume: Go on with an earlier run: auto takes the newest good state in `output`, and begins where there is none
            yet; else the name of a state_<step>.pt. Without it, a folder that a run has used is refused.
        save_precision: Of the saved weights, float32, float16 or bfloat16; states are always exact.
        save_full: Save the whole model as well, model_<step>.safetensors; the newest one is kept.
        keep_last: Saved ControlNets that are kept; 0 keeps all.
        keep_states: Training states that are kept, so that a damaged one has a predecessor.
        best_by: Name of a logged figure; the ControlNet of its highest value is kept as control_best.safetensors.
        devices: GPUs on this machine, or processes on the CPU: a number, a list such as 0,2, or auto.
        num_nodes: Machines.
        strategy: Lightning's name of how several devices train together, ddp for instance.
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

    base: str = ""
    control: str = ""
    resume: str = ""
    save_precision: str = "float32"
    save_full: bool = False
    keep_last: int = 5
    keep_states: int = 2
    best_by: str = "val/fidelity"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"

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
        self._check_saving()

    def _check_saving(self) -> None:
        if self.save_precision not in SAVE_PRECISIONS:
            raise ValueError(f"save_precision must be one of {', '.join(SAVE_PRECISIONS)}, got {self.save_precision!r}")
        if self.keep_last < 0:
            raise ValueError(f"keep_last must be 0 or more, got {self.keep_last}")
        for name in ("keep_states", "num_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.devices in (0, ""):
            raise ValueError(f"devices must be a number from 1 on, a list such as 0,2, or auto, got {self.devices!r}")
