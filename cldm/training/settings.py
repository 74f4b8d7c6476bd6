"""The settings of a training run."""

from dataclasses import dataclass
from pathlib import Path

from cldm.data import Framing, parse_size
from cldm.data.order import Shuffle
from cldm.data.shards import is_shards
from cldm.optimization import Optimization, refuse_in_backward
from ldm.models.diffusion.prediction import PARAMETERIZATIONS

HELD_OUT = "held_out"
FROM_CONFIG = "config"
FIDELITIES = ("auto", "shape", "edges", "hint_edges")
SAVE_PRECISIONS = ("float32", "float16", "bfloat16")
_SEEDS = 2**32  # what numpy's seed takes
_LOCKED_PRECISIONS = ("32", "bf16")
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Settings:
    """One training run. Every field can be changed on the command line as `name=value`.

    Attributes:
        config: The yaml of the model.
        resume_path: Weights to start from, as `tool_add_control.py` writes them; the file's other formats do as well.
        dataset: Folder with `prompt.json`, such as Fill50K, or shards: a folder or URL with their `index.json`, or
            their names, as data/shard-{00000..00099}.tar.
        batch_size: Samples of one process at a time; a step sees `accumulation` such batches in each process.
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
        precision: 32-true, bf16-mixed or 16-mixed.
        num_workers: Processes that read the dataset; 0 reads in the training process.
        size: Of the images that are trained on: 512 is 512x512, and 512x768 is WIDTHxHEIGHT; 0 takes them as they are.
        framing: How images of other sizes come into it, the target as the source: resize refuses those of another
            aspect, crop cuts off what stands out of the middle, pad makes the rest black. See `cldm.data.framing`.
        hint_resampling: smooth, or nearest for control maps whose colours are labels.
        worker_timeout: Seconds that training waits for a batch from `num_workers` before it ends with an error that
            names the sample; 0 waits for ever.
        shard_lanes: Shards that are read at the same time, by all processes and workers together. Where processes x
            `num_workers` divides it, each shard is read once an epoch. See `cldm.data.order`.
        shuffle_buffer: Samples of shards that are kept in memory to be mixed, by all processes and workers together.
        seed: Of the data's order, and with epoch and place in the dataset, of each sample's noise, time step,
            posterior sample and prompt dropout.
        image_steps: DDIM steps of the samples in the image log and in validations.
        image_scale: Guidance scale of the samples in the image log and in validations.
        validation: Folder with the pairs of validations, in the dataset's format; held_out keeps some of the dataset's
            from training, at most one in 20, the same in every run.
        validation_freq: Steps from one validation to the next; one more before the first step and after the last. 0 is
            none, and nothing is held out then.
        validation_pairs: In a validation.
        fidelity: What validations measure of the control: shape (IoU of one plain shape with the target's), edges (F1
            with the target's), hint_edges (F1 with the hint's), or auto: shape if all targets are plain shapes, and
            edges otherwise.
        ema_decay: What the average of the trained weights keeps at each step; samples, validations and saved files are
            of the average then. 0 is off, 0.9999 customary.
        min_snr_gamma: Cap the weight of time steps with little noise, 5 in the paper (arXiv:2303.09556); 0 is off.
        noise_offset: Standard deviation of noise for each channel as a whole, for very dark and bright images; 0 is
            off, 0.05 to 0.1 customary.
        parameterization: What the network predicts: eps, v, or config for what the yaml says. A control is to be used
            with the same one.
        nan_patience: Steps in a row without a finite loss and gradient, all skipped, after which training stops.
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
        low_memory: All that saves memory at once: locked_precision=bf16, gradient_checkpointing=true,
            optimizer=adamw_bf16 unless another one is chosen, and optimizer_in_backward=true unless accumulation,
            gradient_clip, precision or several processes exclude it. See docs/low_vram.md for what each of them saves.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them; this decides,
            not the yaml's use_checkpoint.
        locked_precision: Of the locked U-Net and text encoder, 32 or bf16; needs sd_locked=true.
        accumulation: Batches whose gradients are added up to one step.
        gradient_clip: Largest norm of all gradients together; 0 leaves them as they are.
        optimizer: adamw, adamw_bf16 (moments in bfloat16, rounded at random by the seed), or adamw8bit, where
            bitsandbytes is installed.
        optimizer_in_backward: Step each weight during the backward pass and let its gradient go; excludes
            accumulation, gradient_clip, precision=16-mixed and several processes.
        fused_adamw: Step adamw in one kernel; not where 16-mixed gradients are clipped.
        weight_decay: Of AdamW.
        beta1: Of AdamW's average of gradients.
        beta2: Of AdamW's average of squared gradients.
        schedule: Of the learning rate after warmup_steps: constant, or cosine or linear down to 0 at max_steps.
        warmup_steps: Steps in which the learning rate rises in a line from 0.
        compile: Compile both networks by torch.compile, which needs a C++ compiler, and minutes before the first step.
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
    size: int | str = 0
    framing: str = "resize"
    hint_resampling: str = "smooth"
    worker_timeout: int = 600
    shard_lanes: int = 8
    shuffle_buffer: int = 1000
    seed: int = 0
    image_steps: int = 50
    image_scale: float = 9.0

    # knowing that it learns
    validation: str = HELD_OUT
    validation_freq: int = 1000
    validation_pairs: int = 8
    fidelity: str = "auto"
    ema_decay: float = 0.0
    min_snr_gamma: float = 0.0
    noise_offset: float = 0.0
    parameterization: str = FROM_CONFIG
    nan_patience: int = 20

    # saving, going on, and more than one device
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

    # cost
    low_memory: bool = False
    gradient_checkpointing: bool = False
    locked_precision: str = "32"
    accumulation: int = 1
    gradient_clip: float = 0.0
    optimizer: str = "adamw"
    optimizer_in_backward: bool = False
    fused_adamw: bool = True
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    schedule: str = "constant"
    warmup_steps: int = 0
    compile: bool = False

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
        self._check_data()
        self._check_learning()
        self._check_saving()
        self._check_cost()

    @property
    def folder(self) -> Path:
        """Of all that the run writes."""
        return Path(self.output).expanduser()

    def frame(self) -> Framing:
        """How images come into the size that is trained."""
        return Framing(parse_size(self.size), self.framing, self.hint_resampling)

    def shuffle(self) -> Shuffle:
        """How samples of shards are mixed."""
        return Shuffle(self.seed, self.shard_lanes, self.shuffle_buffer)

    def _check_data(self) -> None:
        self.frame()
        self.shuffle()
        if self.worker_timeout < 0:
            raise ValueError(f"worker_timeout must be 0 or more seconds, got {self.worker_timeout}")
        if is_shards(self.validation):
            raise ValueError(f"validation must be a folder with prompt.json, not shards, got {self.validation}")
        if self.cache and is_shards(self.dataset):
            raise ValueError("cache needs a dataset in a folder with prompt.json, not shards; train with cache=false")

    def _check_learning(self) -> None:
        for name in ("validation_pairs", "nan_patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("validation_freq", "min_snr_gamma", "noise_offset"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be 0 or more and below 1, got {self.ema_decay}")
        for name, known in (("fidelity", FIDELITIES), ("parameterization", (FROM_CONFIG, *PARAMETERIZATIONS))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not self.validation:
            raise ValueError(f"validation must be a folder or {HELD_OUT}, got nothing; validation_freq=0 is none")

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

    @property
    def optimization(self) -> Optimization:
        """How the run changes weights by their gradients."""
        excluded = self.accumulation > 1 or self.gradient_clip > 0 or self.precision.startswith("16")
        return Optimization(
            optimizer="adamw_bf16" if self.low_memory and self.optimizer == "adamw" else self.optimizer,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=self.weight_decay,
            fused=self.fused_adamw,
            in_backward=self.optimizer_in_backward or (self.low_memory and not excluded),
            in_backward_if_alone=not self.optimizer_in_backward,
            schedule=self.schedule,
            warmup_steps=self.warmup_steps,
            seed=self.seed,
        )

    @property
    def recomputes(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        return self.gradient_checkpointing or self.low_memory

    @property
    def locked_in_bf16(self) -> bool:
        """Whether the locked networks are kept in bfloat16."""
        return self.locked_precision == "bf16" or (self.low_memory and self.sd_locked)

    def _check_cost(self) -> None:
        if self.precision not in _PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(_PRECISIONS)}, got {self.precision!r}: what is trained stays in "
                "float32, since steps are too small for less; locked_precision=bf16 is for what is not"
            )
        if self.optimization.in_backward:
            refuse_in_backward(self.accumulation, self.gradient_clip, self.precision)
        if self.locked_precision not in _LOCKED_PRECISIONS:
            raise ValueError(f"locked_precision must be 32 or bf16, got {self.locked_precision!r}")
        if self.locked_precision == "bf16" and not self.sd_locked:
            raise ValueError("locked_precision=bf16 needs sd_locked=true: the U-Net that learns is in float32")
        if self.accumulation < 1:
            raise ValueError(f"accumulation must be at least 1, got {self.accumulation}")
        if self.gradient_clip < 0:
            raise ValueError(f"gradient_clip must be positive, or 0 for none, got {self.gradient_clip}")
        if self.schedule != "constant" and self.max_steps <= self.warmup_steps:
            raise ValueError(
                f"schedule={self.schedule} needs max_steps, where it ends, above warmup_steps "
                f"({self.warmup_steps}), got {self.max_steps}"
            )
