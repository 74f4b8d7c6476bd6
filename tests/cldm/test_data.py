"""Finding datasets, reading rows and images: known pixels, every layout, every kind of bad row."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cldm.data import (
    BadRow,
    Indexed,
    Row,
    check_image,
    find_dataset,
    read_image,
    read_pair,
    read_rows,
    size_problem,
    try_rows,
)
from ldm.models.diffusion.draws import INDEX

GOOD = {"source": "source/0.png", "target": "target/0.png", "prompt": "pale golden rod circle"}


def write_rows(folder: Path, *lines: str | bytes | dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "prompt.json"
    encoded = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    file.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in encoded))
    return file


def save(file: Path, size: tuple[int, int] = (64, 64), mode: str = "RGB", colour="red", **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(file, **options)
    return file


def row(folder: Path) -> Row:
    return Row(folder / "prompt.json", 3, folder / "source/0.png", folder / "target/0.png", "a circle")


@pytest.mark.parametrize("given", ["", "prompt.json"])
@pytest.mark.parametrize("extra", ["", "fill50k", "training/fill50k"])
def test_dataset_is_found_in_its_folder_and_up_to_two_above(tmp_path, given, extra):
    file = write_rows(tmp_path / extra, GOOD)
    assert find_dataset(tmp_path / extra / given) == file
    assert find_dataset(str(tmp_path)) == file


def test_nearest_dataset_is_the_one(tmp_path):
    near = write_rows(tmp_path, GOOD)
    write_rows(tmp_path / "deeper", GOOD)
    assert find_dataset(tmp_path) == near


def test_several_datasets_are_a_question(tmp_path):
    write_rows(tmp_path / "a", GOOD)
    write_rows(tmp_path / "b", GOOD)
    with pytest.raises(ValueError, match=r"holds 2 datasets; give one of them: \S+a, \S+b"):
        find_dataset(tmp_path)


def test_missing_dataset_says_how_to_make_or_get_one(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        find_dataset(tmp_path / "my data")
    message = str(caught.value)
    assert f"python tool_make_fill50k.py --output '{tmp_path}/my data'" in message
    assert "https://huggingface.co/lllyasviel/ControlNet" in message


def test_unfinished_dataset_says_to_go_on(tmp_path):
    (tmp_path / "source").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no prompt.json in .*; if it was being made.* same command again"):
        find_dataset(tmp_path)


@pytest.mark.parametrize("given", ["fill50k", "fill50k.zip", "."])
def test_packed_dataset_says_how_to_unpack_it_and_that_works(tmp_path, given):
    with zipfile.ZipFile(tmp_path / "fill50k.zip", "w") as archive:
        archive.writestr("fill50k/prompt.json", json.dumps(GOOD))
    with pytest.raises(FileNotFoundError, match=r"still packed; unpack it:\n    python -m zipfile -e") as caught:
        find_dataset(tmp_path / given)
    zipfile.main(str(caught.value).split()[-3:])
    assert len(read_rows(find_dataset(tmp_path / given.removesuffix(".zip")))) == 1


def test_rows_keep_their_lines_and_paths(tmp_path):
    file = write_rows(tmp_path, GOOD, "", GOOD | {"source": "a b.png", "prompt": "Kreis in Grün"}, "  ")
    assert read_rows(file) == [
        Row(file, 1, tmp_path / "source/0.png", tmp_path / "target/0.png", GOOD["prompt"]),
        Row(file, 3, tmp_path / "a b.png", tmp_path / "target/0.png", "Kreis in Grün"),
    ]


def test_paths_may_be_absolute(tmp_path):
    file = write_rows(tmp_path / "a", GOOD | {"source": "/maps/0.png", "target": str(tmp_path / "a/0.png")})
    (only,) = read_rows(file)
    assert (only.source, only.target) == (Path("/maps/0.png"), tmp_path / "a/0.png")
    assert only.name_in_folder(only.source) == "/maps/0.png"
    assert only.name_in_folder(only.target) == "0.png"


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_files_of_other_systems_are_read(tmp_path, ending):
    file = tmp_path / "prompt.json"
    file.write_bytes(b"\xef\xbb\xbf" + ending.join([json.dumps(GOOD).encode()] * 2))
    assert [r.line for r in read_rows(file)] == [1, 2]


def test_an_empty_prompt_may_be_trained_on(tmp_path):
    assert read_rows(write_rows(tmp_path, GOOD | {"prompt": ""}))[0].prompt == ""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"source": "source/0.png", ', "malformed JSON, Expecting"),
        (b'{"prompt": "\xff"}', "malformed JSON, 'utf-8' codec"),
        ('[{"source": "a"}]', "expected a JSON object .*, got list"),
        ({"source": "a.png", "prompt": "x"}, "target is missing"),
        (GOOD | {"prompt": None}, "got prompt: None"),
        (GOOD | {"source": 7}, "got source: 7"),
        (GOOD | {"target": ""}, "empty path"),
    ],
)
def test_malformed_rows_are_named(tmp_path, line, problem):
    file = write_rows(tmp_path, GOOD, line, GOOD)
    with pytest.raises(ValueError, match=f"prompt.json, line 2: .*{problem}.*python tutorial_dataset.py"):
        read_rows(file)
    first, bad, last = try_rows(file)
    assert isinstance(bad, BadRow)
    assert bad.line == 2
    assert (first.line, last.line) == (1, 3)


def test_a_file_without_rows_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="has no rows"):
        read_rows(write_rows(tmp_path))


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("L", 200, (200, 200, 200)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 0), (255, 255, 255)),
    ],
)
def test_every_kind_of_image_is_read_as_rgb(tmp_path, mode, colour, expected):
    image = read_image(save(tmp_path / "a.png", (3, 2), mode, colour))
    assert image.dtype == np.uint8
    assert image.shape == (2, 3, 3)
    assert np.unique(image.reshape(-1, 3), axis=0).tolist() == [list(expected)]


def test_palette_images_are_read_as_their_colours(tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGB", (2, 2), "navy").convert("P", palette=Image.Palette.ADAPTIVE).save(file)
    assert read_image(file)[0, 0].tolist() == [0, 0, 128]


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_photos_are_turned_as_the_camera_says(tmp_path, format):
    file = tmp_path / "photo"
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    Image.new("RGB", (128, 64)).save(file, format, exif=exif)
    assert read_image(file).shape == (128, 64, 3)
    assert check_image(file) == (64, 128)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_checked_size_is_the_read_ones(tmp_path, name):
    assert check_image(save(tmp_path / name, (64, 128))) == (64, 128)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.99])
def test_truncated_images_are_found_by_reading_and_by_checking(tmp_path, name, share):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, Image.registered_extensions()[Path(name).suffix])
    whole = buffer.getvalue()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    for use in (read_image, check_image):
        with pytest.raises(ValueError, match=f"cannot read .*{name} as an image"):
            use(tmp_path / name)


def test_every_flipped_byte_of_a_pngs_data_is_found_by_checking(tmp_path):
    file = save(tmp_path / "a.png")
    whole = file.read_bytes()
    start = whole.index(b"IDAT") + 4
    for i in range(start, whole.index(b"IEND") - 8):
        file.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(ValueError, match="cannot read"):
            check_image(file)


@pytest.mark.parametrize("use", [read_image, check_image])
def test_what_is_no_8_bit_image_is_refused(tmp_path, use):
    with pytest.raises(FileNotFoundError, match=r"no image at \S+missing.png"):
        use(tmp_path / "missing.png")
    (tmp_path / "page.png").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"cannot read \S+page.png as an image"):
        use(tmp_path / "page.png")
    save(tmp_path / "deep.png", mode="I;16", colour=1000)
    with pytest.raises(ValueError, match=r"deep.png as an image: expected 8 bits a channel"):
        use(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="cannot read"):
        use(tmp_path)


def test_pair_is_source_then_target(tmp_path):
    save(tmp_path / "source/0.png", (128, 64), colour="white")
    save(tmp_path / "target/0.png", (128, 64), colour="navy")
    source, target = read_pair(row(tmp_path))
    assert source.shape == target.shape == (64, 128, 3)
    assert source[0, 0].tolist() == [255, 255, 255]
    assert target[0, 0].tolist() == [0, 0, 128]


@pytest.mark.parametrize(
    ("source", "target", "kind", "problem"),
    [
        (None, (64, 64), FileNotFoundError, r"no image at \S+source/0.png"),
        ((64, 64), None, FileNotFoundError, r"no image at \S+target/0.png"),
        ((64, 64), (64, 128), ValueError, "source is 64x64 and target 64x128"),
        ((96, 64), (96, 64), ValueError, "images are 96x64; .* multiples of 64"),
    ],
)
def test_errors_of_a_pair_name_the_row(tmp_path, source, target, kind, problem):
    for name, size in (("source", source), ("target", target)):
        if size:
            save(tmp_path / name / "0.png", size)
    with pytest.raises(kind, match=f"prompt.json, line 3: .*{problem}"):
        read_pair(row(tmp_path))


def test_unreadable_image_of_a_pair_names_the_row(tmp_path):
    save(tmp_path / "target/0.png")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"prompt.json, line 3: cannot read \S+source/0.png"):
        read_pair(row(tmp_path))


def test_sizes_that_fit_are_no_problem():
    assert size_problem((512, 512), (512, 512)) == ""
    assert size_problem((768, 64), (768, 64)) == ""


def test_an_indexed_dataset_says_each_items_place():
    dataset = Indexed([{"txt": "a"}, {"txt": "b"}])
    assert len(dataset) == 2
    assert dataset[1] == {"txt": "b", INDEX: 1}
