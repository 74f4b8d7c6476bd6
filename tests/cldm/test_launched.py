"""Which process of a run this is, before Lightning says so."""

import pytest
import torch

from cldm import launched
from cldm.launched import Launched, LaunchError, check_count, deal, leave, own_device

TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}
SLURM = {"SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_NTASKS": "8"}
SHELL = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 0, 1)),
        (TORCHRUN, (5, 1, 8)),
        (SLURM, (6, 2, 8)),
        ({**SLURM, **TORCHRUN}, (5, 1, 8)),  # torchrun inside a job
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, (1, 1, 2)),  # started by Lightning
        ({**SHELL, "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, (1, 1, 2)),  # in a shell by srun --pty
        (SHELL, (0, 0, 1)),
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


@pytest.mark.parametrize(
    ("devices", "num_nodes", "environment"),
    [
        (8, 1, TORCHRUN),
        ("4", 2, SLURM),
        ("0,1,2,3", 2, TORCHRUN),
        ([0, 1, 2, 3], 2, SLURM),
        ("auto", 8, TORCHRUN),
        (2, 1, {}),  # Lightning starts them
        (2, 1, {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}),
        (2, 1, SHELL),
    ],
)
def test_as_many_processes_as_asked_for_do(devices, num_nodes, environment):
    check_count("cpu", devices, num_nodes, environment)


@pytest.mark.parametrize(
    ("devices", "num_nodes", "environment", "asked"),
    [(1, 1, TORCHRUN, 1), (1, 1, SLURM, 1), ("auto", 1, TORCHRUN, 1), ("2,", 2, SLURM, 2), (8, 2, TORCHRUN, 16)],
)
def test_more_or_fewer_processes_than_asked_for_are_told(devices, num_nodes, environment, asked):
    with pytest.raises(LaunchError, match=rf"processes: 8, but the settings ask for {asked} \(devices={devices} "):
        check_count("cpu", devices, num_nodes, environment)


def test_auto_is_every_gpu_of_a_machine(monkeypatch):
    monkeypatch.setattr(launched, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    check_count("cuda", "auto", 2, TORCHRUN)


def test_processes_begin_with_different_shares_and_each_has_all():
    ranks = [{**TORCHRUN, "RANK": str(rank), "WORLD_SIZE": "3"} for rank in range(3)]
    dealt = [deal(range(7), each) for each in ranks]
    assert [each[:2] for each in dealt] == [[0, 3], [1, 4], [2, 5]]
    assert all(sorted(each) == list(range(7)) for each in dealt)
    assert dealt[0][3:] == [4, 1, 5, 2], "of the others' shares, what they come to last"
    assert dealt[1][2:] == [5, 2, 6, 3, 0]
    assert deal([4, 2, 9], {}) == [4, 2, 9]


@pytest.mark.parametrize(("device", "emptied"), [("cuda:1", [True]), ("cpu", [])])
def test_a_gpus_unused_memory_is_given_back(monkeypatch, device, emptied):
    called = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append(True))
    leave(torch.device(device))
    assert called == emptied
