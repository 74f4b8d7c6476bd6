"""The order of shards: every sample once, from seed and epoch alone, mixed, and readers with shards of their own."""

from collections import Counter

import pytest

from cldm.data.order import Order, Shuffle

COUNTS = [5, 7, 3, 90, 1, 4, 12]
EARLIER = [(0, 0), (1, 2), (1, 0), (2, 1), (0, 1), (2, 0), (1, 1)]


@pytest.mark.parametrize("lanes", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("buffer", [1, 10, 10_000])
def test_every_sample_has_one_place(lanes, buffer):
    places = list(Order(COUNTS, Shuffle(0, lanes, buffer), 0).places())
    assert sorted(places) == [(shard, number) for shard, count in enumerate(COUNTS) for number in range(count)]


def test_the_order_follows_from_seed_and_epoch():
    def places(seed: int, epoch: int) -> list:
        return list(Order(COUNTS, Shuffle(seed, 3, 20), epoch).places())

    assert places(1, 2) == places(1, 2)
    assert len({tuple(places(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_the_order_stays_that_of_earlier_versions():
    """Since runs go on after an update; with another order they would see some samples twice."""
    assert list(Order([2, 3, 2], Shuffle(5, 2, 4), 1).places()) == EARLIER


def test_lanes_are_of_equal_length_and_end_to_end():
    order = Order(COUNTS, Shuffle(0, 5, 10), 3)
    lengths = [order.lane_length(lane) for lane in range(order.lanes)]
    assert sum(lengths) == sum(COUNTS) == len(order)
    assert max(lengths) - min(lengths) <= 1
    assert [sum(p.stop - p.start for p in order.pieces(lane)) for lane in range(5)] == lengths


def test_without_a_buffer_a_lane_keeps_the_shards_order():
    assert Order(COUNTS, Shuffle(0, 2, 1), 0).shuffled(0).tolist() == list(range(61))


def test_a_buffer_mixes_no_further_than_it_reaches():
    order = Order([1000], Shuffle(0, 1, 50), 0).shuffled(0)
    assert all(number < place + 50 for place, number in enumerate(order))
    assert sum(number != place for place, number in enumerate(order)) > 900


@pytest.mark.parametrize("readers", [1, 2, 4, 8])
def test_readers_whose_number_divides_the_lanes_share_no_lane(readers):
    order = Order([50] * 64, Shuffle(0, 8, 100), 0)
    lanes = [{place % order.lanes for place in range(reader, len(order), readers)} for reader in range(readers)]
    assert sum(map(len, lanes)) == len(set().union(*lanes)) == 8
    read = Counter(piece.shard for lane in range(8) for piece in order.pieces(lane))
    assert sum(read.values()) <= 64 + 7, "only where a lane ends is a shard read twice"


@pytest.mark.parametrize("given", [{"lanes": 0}, {"buffer": 0}, {"seed": -1}])
def test_wrong_numbers_are_refused(given):
    (name,) = given
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        Shuffle(**given)
