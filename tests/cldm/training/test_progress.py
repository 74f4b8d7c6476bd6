"""What the bar says of a run that ends by its steps."""

import re

import pytorch_lightning as pl

from training_runs import run
from tutorial_train import train


def test_a_bar_of_ones_own_takes_its_place(settings):
    bar = pl.callbacks.TQDMProgressBar()
    train(settings, callbacks=[bar])
    assert bar.trainer.progress_bar_callback is bar


def test_the_bar_names_the_epoch_alone(settings, capsys):
    run(settings)
    said = re.findall(r"Epoch \S+", capsys.readouterr().out)
    assert said
    assert set(said) <= {f"Epoch {epoch}" for epoch in range(3)}
