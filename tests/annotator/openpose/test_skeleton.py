"""The table of joints, limbs and colours."""

from annotator.openpose.skeleton import COLOURS, DRAWN_LIMBS, HAND_BONES, HAND_COLOURS, HAND_JOINTS, JOINTS, LIMBS


def test_limbs_read_their_own_pair_of_field_channels() -> None:
    assert sorted(limb.field for limb in LIMBS) == list(range(0, 38, 2))


def test_limbs_follow_each_other_as_published() -> None:
    counted_from_one = [(limb.start + 1, limb.end + 1) for limb in LIMBS]
    assert counted_from_one[:7] == [(2, 3), (2, 6), (3, 4), (4, 5), (6, 7), (7, 8), (2, 9)]
    assert counted_from_one[-5:] == [(15, 17), (1, 16), (16, 18), (3, 17), (6, 18)]
    assert [limb.field for limb in LIMBS[:4]] == [12, 20, 14, 16]
    assert [limb.field for limb in LIMBS[-6:]] == [30, 34, 32, 36, 18, 26]


def test_drawn_limbs_are_a_tree_over_all_joints() -> None:
    reached = {JOINTS.index("neck")}
    for limb in DRAWN_LIMBS:
        assert limb.start in reached
        assert limb.end not in reached
        reached.add(limb.end)
    assert len(reached) == len(JOINTS) == 18


def test_colours_go_round_the_hue_circle_in_steps_of_85() -> None:
    assert COLOURS[:6] == ((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0))
    assert COLOURS[-2:] == ((255, 0, 170), (255, 0, 85))
    assert len(set(COLOURS)) == 18


def test_five_fingers_of_four_bones_start_at_the_wrist() -> None:
    assert [end for start, end in HAND_BONES if start == 0] == [1, 5, 9, 13, 17]
    assert sorted(end for _, end in HAND_BONES) == list(range(1, HAND_JOINTS))
    assert len(set(HAND_COLOURS)) == len(HAND_BONES) == 20
