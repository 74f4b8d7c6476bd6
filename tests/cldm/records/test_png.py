"""Records in PNG files."""

import base64
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cldm.records import (
    ControlMap,
    NoRecordError,
    Record,
    Runtime,
    WeightsFile,
    map_shown,
    pixels_of,
    png_of,
    read_record,
    save_png,
    save_shown,
)
from cldm.records.png import parameters
from cldm.settings import Settings


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


IMAGE = noise(64, 128, 3)
FULL = Record(
    prompt='ein "Vogel",\n鳥, 🐦',
    settings=Settings(
        steps=7,
        scale=2.5,
        strength=0.5,
        guess_mode=True,
        seed=2**32 - 3,
        images=3,
        added_prompt="",
        negative_prompt="grey",
        sampler="unipc",
        denoise=0.7,
        mask_border=4,
        clip_skip=2,
        long_prompts=True,
    ),
    seed=2**32 - 2,
    index=1,
    controls=(
        ControlMap("canny", png_of(noise(64, 128, 3)), False, {"low": 50, "share": 0.25}, {"weight": 0.5, "end": 0.9}),
        ControlMap("pose", png_of(np.zeros((64, 128, 3), np.uint8)), True, {"hands": True}),
    ),
    resolution=64,
    size=(64, 128),
    init_image=png_of(noise(64, 128, 3)),
    mask=png_of(noise(64, 128)),
    weights=(WeightsFile("sd.ckpt", 7_703_807_346, "0" * 64), WeightsFile("control 日本.pth", 12, "f" * 64)),
    control_weights=(WeightsFile("pose.pth", 13, "a" * 64),),
    config=WeightsFile("cldm.yaml", 900, "12ab" * 16),
    runtime=Runtime("cuda:1", "bfloat16", 2, {"save_memory": True, "tile": None}, {"torch": "2.9"}),
    pooled=(1,),
)
PLAIN = Record("", Settings(seed=0), 0)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_png(tmp_path / "saved.png", IMAGE, FULL)


def rewritten(path: Path, change: Callable[[dict[str, str]], Any]) -> Path:
    """The file with its text chunks changed, as by another program."""
    with Image.open(path) as image:
        texts = {key: str(value) for key, value in image.text.items()}
        change(texts)
        info = PngInfo()
        for key, value in texts.items():
            info.add_itxt(key, value)
        image.save(path.with_name("rewritten.png"), pnginfo=info)
    return path.with_name("rewritten.png")


def with_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    def changed(texts: dict[str, str]) -> None:
        plain = json.loads(texts["controlnet"])
        change(plain)
        texts["controlnet"] = json.dumps(plain)

    return rewritten(path, changed)


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += size + 12
    return found


def png(parts: list[tuple[bytes, bytes]]) -> bytes:
    body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize("record", [FULL, PLAIN], ids=["full", "plain"])
def test_every_field_and_pixel_comes_back(tmp_path, record):
    path = save_png(tmp_path / "image.png", IMAGE, record)
    for source in (path, str(path), path.read_bytes()):
        assert read_record(source) == record
    assert np.array_equal(np.asarray(Image.open(path)), IMAGE)


def test_the_full_record_has_no_field_at_its_default():
    """So that the test above misses none; the settings are taken as a whole."""
    for thing, but in ((FULL, ()), (FULL.controls[0], ("is_map",)), (FULL.runtime, ())):
        for field in fields(thing):
            assert getattr(thing, field.name) != field.default or field.name in but, field.name


def test_a_batch_drawn_at_once_is_kept_as_before_there_were_others(tmp_path):
    batches = replace(PLAIN, settings=replace(PLAIN.settings, images=4, batch_size=2))
    assert read_back(batches, tmp_path / "batches.png") == batches
    assert "batch_size" in Image.open(tmp_path / "batches.png").text["controlnet"]
    save_png(tmp_path / "plain.png", IMAGE, PLAIN)
    assert "batch_size" not in Image.open(tmp_path / "plain.png").text["controlnet"]


def test_the_same_record_gives_the_same_bytes(tmp_path):
    one, other = (save_png(tmp_path / name, IMAGE, read_back(FULL, tmp_path / f"{name}.first")) for name in "ab")
    assert one.read_bytes() == other.read_bytes()


def read_back(record: Record, path: Path) -> Record:
    return read_record(save_png(path, IMAGE, record))


def test_the_maps_pixels_come_back(saved):
    control, pose = read_record(saved).controls
    assert np.array_equal(pixels_of(control.png), noise(64, 128, 3))
    assert not pixels_of(pose.png).any()
    assert np.array_equal(pixels_of(read_record(saved).mask), noise(64, 128))


def test_other_programs_show_the_parameters(saved):
    text = Image.open(saved).text["parameters"]
    assert text == parameters(IMAGE, FULL)
    assert text.splitlines()[-2:] == [
        "Negative prompt: grey",
        "Steps: 7, Sampler: UniPC, CFG scale: 2.5, Seed: 4294967294, Size: 128x64, ControlNet: canny + pose, "
        "Control strength: 0.5, Model: sd, Model hash: 0000000000",
    ]


def test_a_program_that_keeps_texts_keeps_the_record(saved):
    assert read_record(rewritten(saved, lambda texts: None)) == FULL


def test_texts_behind_the_pixels_are_read(saved):
    parts = chunks(saved.read_bytes())
    texts = [part for part in parts if part[0] in (b"tEXt", b"iTXt")]
    assert len(texts) == 6
    moved = [part for part in parts if part not in texts]
    assert read_record(png([*moved[:-1], *texts, moved[-1]])) == FULL


def test_settings_that_came_later_have_their_defaults(saved):
    older = with_json(saved, lambda plain: plain["settings"].pop("sampler"))
    assert read_record(older).settings == replace(FULL.settings, sampler="ddim")


def test_nothing_is_overwritten_and_nothing_half_written_left(saved):
    before = saved.read_bytes()
    with pytest.raises(FileExistsError, match=r"saved.png exists and is not overwritten"):
        save_png(saved, IMAGE, PLAIN)
    with pytest.raises(FileNotFoundError, match="no folder"):
        save_png(saved.parent / "absent" / "image.png", IMAGE, PLAIN)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize(
    "wrong", [IMAGE.astype(np.float32), IMAGE[:, :, 0], IMAGE[:0], IMAGE.tolist(), IMAGE[:, :, :2]]
)
def test_what_is_no_image_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"expected a uint8 array \(h, w, 3\) of at most 16777216 pixels, got"):
        save_png(tmp_path / "image.png", wrong, PLAIN)
    assert not list(tmp_path.iterdir())


def test_images_without_a_record_say_so(tmp_path, saved):
    for name in ("plain.png", "image.jpg", "image.webp"):
        Image.fromarray(IMAGE).save(tmp_path / name)
        with pytest.raises(NoRecordError, match=f"{name} has nothing in it about how it was made"):
            read_record(tmp_path / name)
    with pytest.raises(NoRecordError):
        read_record(rewritten(saved, lambda texts: texts.pop("controlnet")))


def test_no_images_are_refused(tmp_path, saved):
    text = tmp_path / "text.png"
    text.write_text("no image")
    cut = tmp_path / "cut.png"
    cut.write_bytes(saved.read_bytes()[:-200])
    for file in (text, cut):
        with pytest.raises(ValueError, match=f"cannot read .*{file.name} as an image"):
            read_record(file)
    with pytest.raises(FileNotFoundError, match=r"no file .*absent.png; give a PNG"):
        read_record(tmp_path / "absent.png")


def test_every_flipped_byte_of_the_record_is_found(saved):
    content = saved.read_bytes()
    start = content.index(b"controlnet-control-0")
    for at in range(start, start + 4000, 97):
        damaged = bytearray(content)
        damaged[at] ^= 1
        with pytest.raises(ValueError, match="cannot read the image"):
            read_record(bytes(damaged))


OTHER = base64.b64encode(png_of(noise(8, 8))).decode()
BIG = base64.b64encode(png_of(np.zeros((16, 16, 3), np.uint8)).replace(struct.pack(">II", 16, 16), b"\0\0\xff\xff" * 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda texts: texts.pop("controlnet-mask"), "its picture mask is missing"),
        (
            lambda texts: texts.update({"controlnet-mask": texts["controlnet-init-image"]}),
            "its picture mask was changed",
        ),
        (lambda texts: texts.update({"controlnet-mask": "not base64"}), "cannot read what"),
        (lambda texts: texts.update({"controlnet-mask": "AAAA"}), "expected a PNG, got something else"),
        (lambda texts: texts.update({"controlnet-mask": BIG.decode()}), "expected a PNG, got something else"),
        (lambda texts: texts.update({"controlnet": "{"}), "expected JSON, got something else"),
        (lambda texts: texts.update({"controlnet": "[" * 100_000}), "expected JSON, got something else"),
        (lambda texts: texts.update({"controlnet": "[]"}), "expected an object with its format's number"),
        (lambda texts: texts.update({"controlnet": '{"format": NaN}'}), "NaN is no number"),
    ],
)
def test_damaged_texts_are_refused(saved, change, message):
    with pytest.raises(ValueError, match=message):
        read_record(rewritten(saved, change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format=2), "it has the format 2, and this version reads up to 1; update the project"),
        (lambda r: r.update(author="x"), "the record has 'author', unknown to this version; update the project"),
        (lambda r: r["settings"].update(warmth=1), "settings unknown to this version, warmth"),
        (lambda r: r.pop("prompt"), "the record lacks 'prompt'"),
        (lambda r: r.update(prompt=5), "prompt of the record must be str, got 5"),
        (lambda r: r.update(prompt="x" * 30_000), "prompt of the record is too long: 30000"),
        (lambda r: r["settings"].update(steps=10**9), "steps must be a whole number from 1 to 100"),
        (lambda r: r["settings"].update(seed=-1), "a record needs the seeds that were used, got -1"),
        (lambda r: r["settings"].update(steps=[[[]]]), "steps must be a whole number"),
        (lambda r: r.update(index=3), "index must be from 0 to 2"),
        (lambda r: r.update(index=True), "index of the record must be int, got True"),
        (lambda r: r.update(controls=r["controls"][:1] * 17), "at most 16 control maps"),
        (lambda r: r.update(controls=["x"]), "expected a control to be an object, got 'x'"),
        (lambda r: r["controls"][0].update(png="/etc/passwd"), "its picture /etc/passwd is missing"),
        (lambda r: r["controls"][0].update(options={"low": [1]}), "'low' of options must be a text, a number"),
        (lambda r: r["controls"][0].update(options={"low": 1e999}), "Infinity is no number"),
        (lambda r: r["weights"][0].update(name="../../x.ckpt"), "expected a file's name without folders"),
        (lambda r: r["weights"][0].update(sha256="0"), "expected a file's SHA-256"),
        (lambda r: r.update(size=[64, 10**9]), r"expected a size as height and width, got \[64, 1000000000\]"),
        (lambda r: r.update(pooled=[True]), r"expected places of ControlNets, got \[True\]"),
        (lambda r: r["runtime"].update(code="import os"), "the runtime has 'code', unknown"),
    ],
)
def test_malicious_and_newer_records_are_refused(saved, change, message):
    with pytest.raises(ValueError, match=message):
        read_record(with_json(saved, change))


def test_numbers_beyond_floats_are_refused(saved):
    file = rewritten(saved, lambda texts: texts.update(controlnet=texts["controlnet"].replace("0.25", "1e999")))
    with pytest.raises(ValueError, match="'share' of options must be a text, a number"):
        read_record(file)


def test_a_bomb_is_refused_before_it_is_unpacked(saved):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = chunks(saved.read_bytes())
    with pytest.raises(ValueError, match="cannot read the image as an image"):
        read_record(png([(b"IHDR", header), *parts[1:]]))
    squeezed = b"controlnet\0\0" + zlib.compress(b" " * 50_000_000)
    with pytest.raises(ValueError, match="cannot read the image as an image"):
        read_record(png([parts[0], (b"zTXt", squeezed), *parts[1:]]))


def test_this_machine_is_described():
    runtime = Runtime.here(torch.device("cpu"), torch.float32, save_memory=False)
    assert (runtime.device, runtime.precision, runtime.flags) == ("cpu", "float32", {"save_memory": False})
    assert runtime.threads == torch.get_num_threads()
    assert runtime.versions["torch"] == torch.__version__.split("+")[0]
    assert {"python", "controlnet", "pillow"} <= runtime.versions.keys()


def test_a_record_needs_real_seeds_and_a_place_in_its_batch():
    with pytest.raises(ValueError, match="a record needs the seeds that were used, got -1 and 3"):
        Record("", Settings(), 3)
    with pytest.raises(ValueError, match="index must be from 0 to 0 in a batch of that size, got 1"):
        Record("", Settings(seed=1), 1, index=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controls": FULL.controls[:1] * 17}, "expected at most 16 control maps, got 17; leave some out"),
        ({"prompt": "x" * 20_001}, "^prompt must have at most 20000 characters, got 20001; shorten it"),
        ({"settings": Settings(seed=0, negative_prompt="x" * 20_001)}, "negative_prompt must have at most 20000"),
    ],
)
def test_what_could_not_be_read_back_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **changes)


def test_what_is_just_small_enough_is_read_back(tmp_path):
    record = replace(PLAIN, prompt="x" * 20_000, controls=FULL.controls[:1] * 16)
    assert read_back(record, tmp_path / "image.png") == record


def test_a_record_without_averaged_controlnets_is_as_older_versions_wrote_it(tmp_path):
    path = save_png(tmp_path / "image.png", IMAGE, PLAIN)
    assert "pooled" not in json.loads(Image.open(path).text["controlnet"])


def test_a_map_is_kept_in_the_file_that_shows_it_otherwise(tmp_path):
    control_map = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    inverted = 255 - control_map
    path = save_shown(tmp_path / "shown.png", inverted, control_map)
    assert np.array_equal(np.asarray(Image.open(path)), inverted)
    assert np.array_equal(map_shown(path, inverted), control_map)
    assert map_shown(path, inverted[::-1]) is None, "changed afterwards"
    same = save_shown(tmp_path / "same.png", control_map, control_map)
    assert Image.open(same).text == {}
    Image.fromarray(control_map).save(tmp_path / "photo.jpg")
    for other in (same, tmp_path / "photo.jpg"):
        assert map_shown(other, control_map) is None
