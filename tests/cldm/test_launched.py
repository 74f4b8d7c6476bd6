"""Which process of a run this is, before Lightning says so."""

import pytest
import torch

from cldm import launched
from cldm.launched import Launched, deal, leave, own_device

TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}
SLURM = {"SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_NTASKS": "8"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 0, 1)),
        (TORCHRUN, (5, 1, 8)),
        (SLURM, (6, 2, 8)),
        ({**SLURM, **TORCHRUN}, (5, 1, 8)),  # torchrun inside a job
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, (1, 1, 2)),  # started by Lightning
    ],
)
def test_torchrun_and_slurm_say_which(environment, expected):
    assert launched.launched(environment) == Launched(*expected)


@pytest.mark.parametrize(
    ("devices", "environment", "expected"),
    [
        (1, {}, 0),
        ("auto", TORCHRUN, 1),
        (4, SLURM, 2),
        ("2,", {}, 2),
        ("4,6", TORCHRUN, 6),
        ([4, 6], TORCHRUN, 6),
    ],
)
def test_each_process_has_a_gpu_of_its_own(monkeypatch, devices, environment, expected):
    monkeypatch.setattr(launched, "choose_device", torch.device)
    assert own_device("cuda", devices, environment) == torch.device("cuda", expected)


def test_what_is_named_or_no_gpu_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr(launched, "choose_device", torch.device)
    assert own_device("cuda:3", 2, TORCHRUN) == torch.device("cuda:3")
    assert own_device("cpu", 2, TORCHRUN) == torch.device("cpu")


def test_processes_begin_with_different_shares_and_each_has_all():
    ranks = [{**TORCHRUN, "RANK": str(rank), "WORLD_SIZE": "3"} for rank in range(3)]
    dealt = [deal(range(7), each) for each in ranks]
    assert [each[:2] for each in dealt] == [[0, 3], [1, 4], [2, 5]]
    assert all(sorted(each) == list(range(7)) for each in dealt)
    assert deal([4, 2, 9], {}) == [4, 2, 9]


@pytest.mark.parametrize(("device", "emptied"), [("cuda:1", [True]), ("cpu", [])])
def test_a_gpus_unused_memory_is_given_back(monkeypatch, device, emptied):
    called = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append(True))
    leave(torch.device(device))
    assert called == emptied
