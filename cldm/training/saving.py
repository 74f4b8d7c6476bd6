"""The trained ControlNet, saved alone."""

from pathlib import Path

import pytorch_lightning as pl

from cldm.cldm import ControlLDM
from cldm.weights.saving import save_weights


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
