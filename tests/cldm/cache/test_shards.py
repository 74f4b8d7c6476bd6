"""Shards: what is written is read; only what is missing is made."""

import pytest
import torch

from cldm.cache.shards import Shards
from cldm.weights.saving import save_weights


def make(numbers):
    return (torch.full((2, number + 1), float(number)) for number in numbers)


def test_every_tensor_is_read_as_it_was_made(tmp_path):
    shards = Shards(tmp_path, "texts", 7, size=3)
    shards.fill(make, list)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"texts-0000{k}.safetensors" for k in range(3)]
    assert len(shards) == 7
    for number, tensor in enumerate(Shards(tmp_path, "texts", 7, size=3)):
        assert torch.equal(tensor, torch.full((2, number + 1), float(number)))


def test_what_was_killed_goes_on_with_the_shards_that_are_missing(tmp_path):
    made = []

    def killed(numbers):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(numbers)
        return make(numbers)

    shards = Shards(tmp_path, "latents", 10, size=3)
    with pytest.raises(KeyboardInterrupt):
        shards.fill(killed, list)
    assert shards.missing() == [2, 3]
    made.clear()
    shards.fill(lambda numbers: made.append(numbers) or make(numbers), list)
    assert made == [[6, 7, 8], [9]]
    assert shards.missing() == []


def test_processes_of_a_run_share_what_is_missing(tmp_path, monkeypatch):
    made = {0: [], 1: []}

    def process(rank, meanwhile=None):
        def make_some(numbers):
            if meanwhile is not None and not made[rank]:
                meanwhile()
            made[rank].append(numbers[0])
            return make(numbers)

        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}.items():
            monkeypatch.setenv(name, str(value))
        Shards(tmp_path, "latents", 6, size=2).fill(make_some, list)

    process(0, meanwhile=lambda: process(1))
    assert made == {0: [0], 1: [2, 4, 0]}, "what the other has made is not made again"
    assert Shards(tmp_path, "latents", 6, size=2).missing() == []


def test_an_error_half_way_through_a_shard_leaves_none(tmp_path):
    def breaks(numbers):
        yield torch.zeros(1)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        Shards(tmp_path, "latents", 2).fill(breaks, list)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_another_process_makes_meanwhile_is_left(tmp_path):
    shards = Shards(tmp_path, "latents", 2)

    def meanwhile(numbers):
        Shards(tmp_path, "latents", 2).fill(make, list)
        return [torch.ones(1), torch.ones(1)]

    shards.fill(meanwhile, list)
    assert shards[1].shape == (2, 2)


def test_a_damaged_file_is_named(tmp_path):
    shards = Shards(tmp_path, "latents", 2)
    shards.fill(make, list)
    content = shards.file(0).read_bytes()
    shards.file(0).write_bytes(content[:-4])
    with pytest.raises(ValueError, match=r"cannot read \S+latents-00000.safetensors: .*; remove it, and start again"):
        shards[0]
    shards.file(0).unlink()
    with pytest.raises(ValueError, match="latents-00000"):
        shards[1]


@pytest.mark.parametrize("number", [-1, 2])
def test_a_number_out_of_range_is_an_index_error(tmp_path, number):
    with pytest.raises(IndexError, match=f"0 to 1, got {number}"):
        Shards(tmp_path, "latents", 2)[number]


def test_a_shard_that_another_process_has_written_when_this_one_has_is_no_error(tmp_path, monkeypatch):
    def later(tensors, file, **options):
        save_weights(tensors, file)  # the other's
        return save_weights(tensors, file, **options)

    monkeypatch.setattr("cldm.cache.shards.save_weights", later)
    shards = Shards(tmp_path, "latents", 2)
    shards.fill(make, list)
    assert [file.name for file in tmp_path.iterdir()] == ["latents-00000.safetensors"]
    assert shards[1].shape == (2, 2)
