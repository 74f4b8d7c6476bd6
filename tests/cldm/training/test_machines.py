"""Lightning's plugins: own state files everywhere, and on SLURM no handling of signals of Lightning's."""

import pytest
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from cldm.training import plugins
from cldm.training.state import StateFiles


@pytest.mark.parametrize("torchrun", [True, False])
def test_states_are_written_by_our_files(monkeypatch, torchrun):
    monkeypatch.setattr(SLURMEnvironment, "detect", lambda: torchrun)  # a job that starts torchrun
    monkeypatch.setattr(TorchElasticEnvironment, "detect", lambda: torchrun)
    assert [type(plugin) for plugin in plugins()] == [StateFiles]


def test_on_slurm_signals_are_left_to_the_run(monkeypatch):
    monkeypatch.setattr(SLURMEnvironment, "detect", lambda: True)
    _, slurm = plugins()
    assert not slurm.auto_requeue
