"""The settings of a training run."""

from dataclasses import dataclass

from cldm.data import Framing, parse_size
from cldm.data.order import Shuffle
from cldm.data.shards import is_shards

_SEEDS = 2**32  # what numpy's seed takes


@dataclass(frozen=True)
class Settings:
    """One training run. Every field can be changed on the command line as `name=value`.

    Attributes:
        config: The yaml of the model.
        resume_path: Weights to start from, as `tool_add_control.py` writes them; the file's other formats do as well.
        dataset: Folder with `prompt.json`, such as Fill50K, or shards: a folder or URL with their `index.json`, or
            their names, as data/shard-{00000..00099}.tar.
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
    size: int | str = 0
    framing: str = "resize"
    hint_resampling: str = "smooth"
    worker_timeout: int = 600
    shard_lanes: int = 8
    shuffle_buffer: int = 1000
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
        self._check_data()

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
        if self.cache and is_shards(self.dataset):
            raise ValueError("cache needs a dataset in a folder with prompt.json, not shards; train with cache=false")
