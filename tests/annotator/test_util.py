"""Image checks, sizes, devices and checkpoints."""

import pickle
import tracemalloc
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from annotator import util
from annotator.manifest import DETECTOR_FILES
from annotator.util import (
    HWC3,
    annotator_ckpts_path,
    check_finite,
    check_image,
    choose_device,
    find_checkpoint,
    load_network,
    read_tensors,
    resize,
    resize_image,
    resize_to_multiple,
)
from parity import golden


def linear() -> nn.Linear:
    return nn.Linear(3, 2)


def test_grey_is_repeated_and_alpha_blended_onto_white():
    grey = np.array([[0, 7], [200, 255]], np.uint8)
    for image in (grey, grey[:, :, None]):
        np.testing.assert_array_equal(HWC3(image), np.dstack([grey] * 3))
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 51]]], np.uint8)
    np.testing.assert_array_equal(HWC3(rgba), [[[10, 20, 30], [255, 255, 255], [204, 224, 255]]])


def test_every_alpha_of_every_level_is_rounded_and_takes_little_memory():
    level, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    rgba = np.dstack([level, level, level, alpha]).repeat(4, 0).repeat(4, 1)
    share = rgba[..., 3:] / 255
    expected = np.rint(rgba[..., :3] * share + 255 * (1 - share))
    tracemalloc.start()
    blended = HWC3(rgba)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(blended, expected)
    assert peak < 4 * blended.nbytes


def test_rgb_is_passed_on_unchanged_and_contiguous():
    image = golden("hed")["image"]
    assert HWC3(image) is image
    reversed_view = image[:, :, ::-1]
    made = check_image(reversed_view)
    np.testing.assert_array_equal(made, reversed_view)
    assert made.flags.c_contiguous


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (np.zeros((4, 4, 3), np.float32), "dtype float32; scale it to 0..255"),
        (np.zeros((4, 4, 3), np.int64), "dtype int64"),
        (np.zeros((4, 4, 3), bool), "dtype bool"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros((3, 4, 4, 3), np.uint8), r"shape \(3, 4, 4, 3\)"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), r"empty one of the shape \(0, 4, 3\)"),
        (np.zeros((4, 0), np.uint8), "empty"),
        ([[0, 0, 0]], "got list; convert it with numpy.asarray"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_image_is_refused(image, complaint):
    with pytest.raises(ValueError, match=rf"expected an image as a uint8 array \(h, w, 3\) in RGB.*{complaint}"):
        HWC3(image)


@pytest.mark.parametrize(
    ("shape", "resolution", "expected"),
    [
        ((300, 400), 512, (512, 704)),  # 682.7 wide, 10.67 times 64
        ((1000, 750), 512, (704, 512)),
        ((512, 512), 512, (512, 512)),
        ((510, 540), 512, (512, 512)),
        ((100, 100), 10, (64, 64)),
        ((64, 8000), 64, (64, 8000 // 64 * 64)),
    ],
)
def test_the_short_side_becomes_the_resolution_in_steps_of_64(shape, resolution, expected):
    assert resize_image(np.zeros((*shape, 3), np.uint8), resolution).shape == (*expected, 3)


@pytest.mark.parametrize(("resolution", "how"), [(320, cv2.INTER_LANCZOS4), (128, cv2.INTER_AREA)])
def test_lanczos_enlarges_and_area_reduces(resolution, how):
    image = golden("hed")["image"]  # 256 x 192
    height, width = {320: (448, 320), 128: (192, 128)}[resolution]
    np.testing.assert_array_equal(
        resize_image(image, resolution), cv2.resize(image, (width, height), interpolation=how)
    )


@pytest.mark.parametrize("resolution", [0, -64])
def test_a_resolution_is_positive(resolution):
    with pytest.raises(ValueError, match=f"positive number of pixels, got {resolution}"):
        resize_image(np.zeros((64, 64, 3), np.uint8), resolution)


def test_a_strip_that_would_fill_the_memory_is_refused():
    with pytest.raises(ValueError, match=r"8000 x 1 \(height x width\) would be scaled to 4096000 x 512; crop it"):
        resize_image(np.zeros((8000, 1, 3), np.uint8), 512)


def test_a_long_image_that_is_not_scaled_is_as_it_was_and_no_part_of_it():
    long = np.random.default_rng(0).integers(0, 256, (40000, 16, 3), np.uint8)
    for same in (resize_to_multiple(long, 16), resize(long, (40000, 16), cv2.INTER_AREA)):
        np.testing.assert_array_equal(same, long)
        assert not np.shares_memory(same, long)
    with pytest.raises(ValueError, match="of sides of at most 32768, or ask for a lower resolution"):
        resize_to_multiple(long[1:], 16)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((64, 96), (64, 96)), ((65, 95), (64, 96)), ((1, 8000), (16, 8000)), ((72, 7), (64, 16)), ((73, 24), (80, 32))],
)
def test_sides_go_to_the_nearest_multiple(shape, expected):
    assert resize_to_multiple(np.zeros((*shape, 3), np.uint8), 16).shape == (*expected, 3)


def test_large_images_come_down_to_about_the_pixels_allowed():
    small = resize_to_multiple(np.zeros((800, 1200, 3), np.uint8), 16, at_most=256 * 256)
    assert small.shape == (208, 320, 3)
    assert resize_to_multiple(np.zeros((240, 256, 3), np.uint8), 16, at_most=256 * 256).shape == (240, 256, 3)


def test_auto_is_the_best_device_there_is(monkeypatch):
    for cuda, mps, expected in [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert choose_device("auto") == torch.device(expected)
        assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used here.*use auto, cpu, cuda"):
        choose_device(device)


@pytest.mark.parametrize("name", DETECTOR_FILES)
def test_a_missing_checkpoint_says_what_how_large_from_where_and_how(name, tmp_path, monkeypatch):
    monkeypatch.setattr(util, "CHECKPOINT_FOLDER", tmp_path)
    entry = DETECTOR_FILES[name]
    with pytest.raises(FileNotFoundError) as failure:
        find_checkpoint(entry.file)
    message = str(failure.value)
    for part in (
        str(tmp_path / entry.file),
        f"{entry.megabytes:g} MB",
        f"https://huggingface.co/{entry.sources[0].repository}",
        entry.sources[0].path,
        f"python tool_download.py {name}`",
        f"pass {'hand_checkpoint' if name == 'openpose_hand' else 'checkpoint'}=PATH",
    ):
        assert part in message


def test_a_checkpoint_is_found_in_the_folder_and_where_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(util, "CHECKPOINT_FOLDER", tmp_path / "ckpts")
    elsewhere = tmp_path / "mine.pth"
    usual = tmp_path / "ckpts" / "ControlNetHED.pth"
    usual.parent.mkdir()
    for path in (elsewhere, usual):
        path.touch()
    assert find_checkpoint("ControlNetHED.pth") == usual
    assert find_checkpoint("ControlNetHED.pth", str(elsewhere)) == elsewhere
    assert find_checkpoint("ControlNetHED.pth", tmp_path / "ckpts") == usual
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*yours\.pth\. Expected is ControlNetHED\.pth"):
        find_checkpoint("ControlNetHED.pth", tmp_path / "yours.pth")
    assert Path(annotator_ckpts_path).name == "ckpts"


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("", r"hed --to {0}` to put it into {0}, or pass checkpoint=PATH .*\(--checkpoints FOLDER or --detector FILE"),
        ("absent", r"hed --to {0}/absent` to put it into {0}/absent, or"),
        ("yours.pth", r"hed --to {0}` to put it into {0} and give {0}/ControlNetHED\.pth, or"),
    ],
)
def test_what_is_missing_where_the_user_said_is_to_be_put_there(given, advice, tmp_path):
    with pytest.raises(FileNotFoundError, match=advice.format(tmp_path)):
        find_checkpoint("ControlNetHED.pth", tmp_path / given)


@pytest.mark.parametrize("form", ["bare.pth", "wrapped.pth", "old.pth", "half.pth", "tensors.safetensors"])
def test_every_form_of_a_checkpoint_loads(form, tmp_path):
    state, path = linear().state_dict(), tmp_path / form
    if form == "wrapped.pth":
        torch.save({"meta": {"epoch": 3, "classes": ["wall"]}, "state_dict": state}, path)
    elif form == "old.pth":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif form == "half.pth":
        torch.save({name: tensor.half() for name, tensor in state.items()}, path)
    elif form == "tensors.safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    network = load_network(linear(), path)
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name].half().float() if form == "half.pth" else state[name])
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_names_must_be_the_networks_but_for_those_to_ignore(tmp_path):
    path = tmp_path / "more.pth"
    torch.save({**linear().state_dict(), "auxiliary_head.conv.weight": torch.ones(1), "norm": torch.ones(1)}, path)
    load_network(linear(), path, ignore=("auxiliary_head", "norm"))
    with pytest.raises(ValueError, match=r"more\.pth is no checkpoint of Linear.*norm"):
        load_network(linear(), path, ignore=["auxiliary_head", "nor", "n"])
    with pytest.raises(ValueError, match=r"auxiliary_head\.conv\.weight"):
        load_network(linear(), path, ignore=["norm"])


def test_a_missing_name_or_another_shape_is_refused(tmp_path):
    path = tmp_path / "less.pth"
    torch.save({"weight": torch.ones(2, 3)}, path)
    with pytest.raises(ValueError, match=r"Missing key.*bias.*checkpoint=PATH"):
        load_network(linear(), path)
    torch.save({"weight": torch.ones(2, 4), "bias": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="size mismatch for weight"):
        load_network(linear(), path)


def test_a_file_of_another_detector_says_which_one_belongs_here(tmp_path):
    path = tmp_path / "ControlNetHED.pth"
    torch.save({"other": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=rf"`python tool_download\.py hed --to {tmp_path} --replace` to replace it"):
        load_network(linear(), path)
    path.write_bytes(b"cut")
    with pytest.raises(ValueError, match=rf"`python tool_download\.py hed --to {tmp_path} --replace` to replace it"):
        load_network(linear(), path)


class Intruder:
    """Writes a file when it is unpickled by a careless loader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_file_is_never_run(tmp_path):
    path, trace = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({"weight": Intruder(trace)}, path)
    with pytest.raises(ValueError, match=r"cannot read .*evil\.pth"):
        read_tensors(path)
    assert not trace.exists()
    with path.open("wb") as file:
        pickle.dump({"weight": Intruder(trace)}, file, protocol=2)
    with pytest.raises(ValueError, match=r"cannot read .*evil\.pth"):
        read_tensors(path)
    assert not trace.exists()


def damaged(tmp_path: Path) -> dict[str, Path]:
    whole = tmp_path / "whole.pth"
    torch.save({"weight": torch.ones(50, 50)}, whole)
    content = whole.read_bytes()
    files = {
        "empty.pth": b"",
        "cut.pth": content[: len(content) // 2],
        "page.pth": b"<!DOCTYPE html><html>Not Found</html>",
        "page.safetensors": b"<!DOCTYPE html><html>Not Found</html>",
        "noise.pth": np.random.default_rng(0).bytes(500),
    }
    for name, bytes_ in files.items():
        (tmp_path / name).write_bytes(bytes_)
    with zipfile.ZipFile(tmp_path / "archive.pth", "w") as archive:
        archive.writestr("readme.txt", "not a checkpoint")
    return {name: tmp_path / name for name in [*files, "archive.pth"]}


@pytest.mark.parametrize("name", ["empty.pth", "cut.pth", "page.pth", "page.safetensors", "noise.pth", "archive.pth"])
def test_a_damaged_file_is_one_clear_error(name, tmp_path):
    with pytest.raises(ValueError, match=rf"cannot read .*{name} \(\d+ bytes\) as a checkpoint.*cut\s+short"):
        read_tensors(damaged(tmp_path)[name])


@pytest.mark.parametrize(
    "lacking", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), OSError(12, "Cannot allocate memory")]
)
def test_lack_of_memory_is_no_damage(tmp_path, monkeypatch, lacking):
    def fails(path):
        raise lacking

    torch.save(linear().state_dict(), tmp_path / "a.pth")
    monkeypatch.setattr(util, "_unpickled", fails)
    with pytest.raises(MemoryError, match=r"out of memory while .*a\.pth \(\d+ bytes\) was loaded"):
        read_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_output_that_is_not_finite_is_refused(value):
    assert check_finite(torch.ones(2)).tolist() == [1, 1]
    with pytest.raises(ValueError, match="output is not finite; check that the checkpoint is the published one"):
        check_finite(torch.tensor([1, value]))


@pytest.mark.parametrize("content", [[torch.ones(1)], {"state_dict": 3}, {"epoch": 3}, torch.ones(2)])
def test_a_file_without_a_dictionary_of_tensors_is_refused(content, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"expected .*other\.pth to hold a dictionary of tensors"):
        read_tensors(path)
