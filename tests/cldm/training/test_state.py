"""States: a run goes on from one as if it had never stopped; damaged ones are known as such."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cldm.training.run_folder import file_of
from cldm.training.state import StateError, StateFiles, check_optimizer, check_samples, check_state, check_trained
from training_runs import Record, run


class Cut(Exception):
    pass


def cut() -> None:
    raise Cut


@pytest.mark.parametrize("step", [2, 6], ids=["mid-epoch", "end-of-epoch"])
def test_a_resumed_run_ends_as_one_in_one_go(settings, whole, step):
    folder, seen = whole
    record = Record(step + 2, cut)  # a step after the state is lost
    with pytest.raises(Cut):
        run(settings, record)
    rest = run(replace(settings, resume="auto"))
    assert record.seen[:step] + rest.seen == seen.seen
    assert {**record.drawn, **rest.drawn} == seen.drawn, "random numbers go on too"
    for kind in ("control", "state"):
        assert file_of(Path(settings.output), kind, 8).is_file()
    ours, theirs = (file_of(f, "control", 8).read_bytes() for f in (Path(settings.output), folder))
    assert ours == theirs


def test_a_state_has_no_locked_weights_and_no_code(whole):
    state = torch.load(file_of(whole[0], "state", 8), weights_only=True)
    assert state["state_dict"]
    assert all(name.startswith("control_model.") for name in state["state_dict"])
    assert state["TrainingData"] == {"epoch": 2, "samples": 4}
    assert len(state["random"]) == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "zeros", "other"])
def test_damage_is_noticed(whole, tmp_path, damage):
    path = tmp_path / "state_000008.pt"
    content = bytearray(file_of(whole[0], "state", 8).read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "zeros":
        content[:] = bytes(len(content))
    path.write_bytes(content)
    if damage == "other":
        torch.save({"state_dict": {}}, path)
    with pytest.raises(StateError, match="no training state"):
        check_state(path)


def test_what_is_not_there_is_told():
    with pytest.raises(FileNotFoundError, match=r"no state none\.pt to go on from"):
        check_state(Path("none.pt"))


def test_a_state_cut_short_by_a_full_disk_replaces_nothing(tmp_path, disk_that_fills):
    path, files = tmp_path / "state_000002.pt", StateFiles()
    files.save_checkpoint({"a": torch.zeros(10)}, path)
    good = path.read_bytes()
    with disk_that_fills(100_000):
        files.save_checkpoint({"a": torch.zeros(100_000)}, path)
    assert files.failure is not None
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]
    files.save_checkpoint({"a": torch.zeros(10)}, path)
    assert files.failure is None


def test_a_run_that_trains_other_weights_is_refused():
    with pytest.raises(StateError, match=r"state has 2 trained weights and this run trains 1, b for instance"):
        check_trained(["a", "b"], ["a"])


def test_a_state_of_another_base_is_refused(settings, whole, tmp_path):
    weights = torch.load(file_of(whole[0], "state", 8), weights_only=True)
    weights["base_unet_sha256"] = "0" * 64
    torch.save(weights, tmp_path / "state_000008.pt")
    with pytest.raises(StateError, match="another base"):
        run(replace(settings, resume=str(tmp_path / "state_000008.pt"), max_steps=9))


@pytest.mark.parametrize(("saved", "chosen"), [("adamw", "adamw8bit"), ("adamw8bit", "adamw_bf16")])
def test_moments_of_another_kind_are_refused(saved, chosen):
    with pytest.raises(StateError, match=f"optimizer={saved}, from which {chosen} cannot go on"):
        check_optimizer(saved, chosen)


@pytest.mark.parametrize("chosen", ["adamw", "adamw_bf16"])
def test_others_go_on_from_each_other(chosen):
    check_optimizer("adamw", chosen)
    check_optimizer(None, "adamw8bit")


def test_states_of_before_do_not_say_how_many_samples():
    check_samples(None, 7)
