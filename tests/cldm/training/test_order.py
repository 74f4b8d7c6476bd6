"""The order of the data: every sample once, whatever the number of processes, from wherever a run begins."""

from collections import Counter
from itertools import zip_longest

import numpy as np
import pytest

from cldm.training.order import Place, Share, epoch_order


def positions(**share) -> list[int]:
    epoch = share.pop("epoch", 0)
    return [position for batch in Share(**share).batches(epoch) for position in batch]


def test_the_order_follows_from_seed_and_epoch():
    assert np.array_equal(epoch_order(50, 3, 1), epoch_order(50, 3, 1))
    orders = [tuple(epoch_order(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 6
    assert all(sorted(order) == list(range(50)) for order in orders)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_see_each_sample_once_up_to_the_last_incomplete_global_batch(world):
    seen = Counter(p for rank in range(world) for p in positions(count=26, batch_size=2, rank=rank, world=world))
    assert set(seen.values()) == {1}
    assert set(seen) == set(range(26 // (2 * world) * 2 * world))


def test_two_processes_see_in_each_step_what_one_with_the_double_batch_sees():
    halves = [list(Share(26, 3, rank, 2).batches(0)) for rank in (0, 1)]
    assert [sorted([*a, *b]) for a, b in zip(*halves, strict=True)] == [
        list(batch) for batch in Share(26, 6).batches(0)
    ]


@pytest.mark.parametrize("readers", [1, 2, 5])
def test_readers_in_turn_give_a_process_s_batches(readers):
    share = Share(40, 3, rank=1, world=2, start=Place(4, 5))
    parts = [list(share.positions(4, reader, readers)) for reader in range(readers)]
    in_turn = [p for turn in zip_longest(*parts) for p in turn if p is not None]
    assert in_turn == [position for batch in share.batches(4) for position in batch]


@pytest.mark.parametrize("batches", [0, 1, 4, 7])
def test_from_a_place_on_comes_what_was_left(batches):
    whole = Share(30, 4)
    rest = Share(30, 4, start=whole.after(2, batches))
    epoch = 2 if batches < 7 else 3
    expected = list(whole.batches(epoch))[batches if batches < 7 else 0 :]
    assert list(rest.batches(epoch)) == expected
    assert rest.before(epoch) + len(expected) == len(rest) == len(whole)
    assert len(list(rest.batches(epoch + 1))) == 7


def test_a_place_is_kept_when_steps_change_their_size():
    at = Share(30, 4).after(0, 3)
    assert at == Place(0, 12)
    larger = Share(30, 3, 1, 2, start=at)
    assert [batch.start for batch in larger.batches(0)] == [13, 19, 25]
    assert larger.before(0) + 3 == len(larger)
    assert larger.after(0, larger.before(0) + 2) == Place(0, 24)
    assert larger.after(0, len(larger)) == Place(1)


def test_a_dataset_smaller_than_a_step_is_refused():
    with pytest.raises(ValueError, match=r"takes 8 samples \(batch_size=4, 2 processes\), but the dataset has 7"):
        Share(7, 4, 0, 2)
