"""What the bar says of a run that ends by its steps."""

import re

from training_runs import run


def test_the_bar_names_the_epoch_alone(settings, capsys):
    run(settings)
    said = re.findall(r"Epoch \S+", capsys.readouterr().out)
    assert said
    assert set(said) <= {f"Epoch {epoch}" for epoch in range(3)}
