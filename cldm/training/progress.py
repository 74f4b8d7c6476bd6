"""The bar that shows how far an epoch has come."""

from pytorch_lightning.callbacks import RichProgressBar


class Progress(RichProgressBar):
    """Lightning's bar, without its last epoch of a run that ends by its steps, which it calls "-2"."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch}"
