"""The Canny app, served by its script: in a real browser and through gradio_client."""

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import tiny
from cldm.fidelity import drawn_shape, iou
from cldm.pipeline import Settings, generate
from cldm.records import ControlMap, Record, pixels_of, png_of, read_record, save_png
from cldm.shapes import COLOURS
from serving import Served, fill_in, opened, served, stroke

STAR = Path(__file__).parent.parent / "test_imgs" / "star.png"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("app")
    config, checkpoint = tiny.write_model(folder)
    with served("gradio_canny2image.py", folder, "--checkpoint", str(checkpoint), "--config", str(config)) as running:
        yield running


@pytest.fixture(scope="module")
def client(app: Served) -> Client:
    return Client(app.url, verbose=False)


@pytest.fixture
def page(app: Served, browser: Any) -> Iterator[Any]:
    with opened(app, browser) as page:
        page.get_by_role("button", name="Run", exact=True).wait_for()
        yield page


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[25:75, 50:150] = (250, 120, 30)
    Image.fromarray(pixels).save(tmp_path / "square.png")
    return tmp_path / "square.png"


@pytest.fixture
def no_picture(tmp_path: Path) -> Path:
    (tmp_path / "broken.png").write_bytes(b"this is no picture")
    return tmp_path / "broken.png"


def expected_map(picture: Path, width: int = 128) -> np.ndarray:
    """The network's, 64 pixels high: edges white."""
    small = cv2.resize(np.asarray(Image.open(picture)), (width, 64), interpolation=cv2.INTER_AREA)
    return np.repeat(cv2.Canny(small, 100, 200)[:, :, None], 3, axis=2)


def shown(page: Any, app: Served) -> list[np.ndarray]:
    """The gallery's pictures as the browser gets them."""
    page.get_by_text(re.compile(r"^seed \d+$")).first.wait_for(timeout=120_000)
    sources = page.locator(".grid-container img, .gallery-item img").evaluate_all("all => all.map(img => img.src)")
    bodies = [page.request.get(source).body() for source in dict.fromkeys(sources)]
    return [np.asarray(Image.open(io.BytesIO(body))) for body in bodies]


@pytest.mark.browser
def test_upload_run_map_and_image(page, app):
    page.set_input_files("input[type=file]", STAR)
    page.get_by_text("Advanced options").click()
    fill_in(page, {"Prompt": "a bird", "Seed": "7", "number input for Steps": "60"})
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text(re.compile(r"Step \d+ of 60")).first.wait_for(timeout=120_000)
    control_map, image = shown(page, app)
    assert np.array_equal(control_map, 255 - expected_map(STAR, width=64))
    assert image.shape == (64, 64, 3)
    assert image.std() > 5
    assert page.locator("label", has_text="Seeds used").locator("textarea").input_value() == "7"
    assert {url for url in page.requested if not url.startswith((app.url, "data:", "blob:"))} == set()


@pytest.mark.browser
def test_a_broken_upload_is_a_message_and_the_app_goes_on(page, app, picture, no_picture):
    page.set_input_files("input[type=file]", no_picture)
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("cannot read broken.png as an image").first.wait_for()
    page.reload()
    page.set_input_files("input[type=file]", picture)
    page.get_by_role("button", name="Run", exact=True).click()
    assert len(shown(page, app)) == 2


@pytest.mark.browser
def test_a_run_that_is_cancelled_stops_and_the_next_one_works(page, app):
    page.set_input_files("input[type=file]", STAR)
    page.get_by_text("Advanced options").click()
    long = {"number input for Steps": "100", "number input for Images": "12", "number input for Resolution": "256"}
    fill_in(page, long)  # so that it cannot end before it is cancelled
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text(re.compile(r"Step \d+ of 100")).first.wait_for()
    page.get_by_alt_text("the picture as it forms").nth(11).wait_for()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_text("Cancelled").wait_for()
    fill_in(page, {"number input for Steps": "1", "number input for Images": "1"})
    page.get_by_role("button", name="Run", exact=True).click()
    assert len(shown(page, app)) == 2
    assert page.get_by_text("Step 100 of 100").count() == 0


@pytest.mark.browser
def test_a_saved_image_restores_its_settings_and_makes_itself_again(page, app, client, picture):
    chosen = {"prompt": "a bird", "steps": 2, "seed": 9, "scale": 4, "sampler": "unipc"}
    gallery, _, _ = client.predict(image=handle_file(picture), **chosen, api_name="/run")
    image = np.asarray(Image.open(gallery[1]["image"]))
    page.get_by_text("Restore settings from an image").click()
    uploads = page.locator(".block").filter(has_text="Saved image").locator("input[type=file]")
    uploads.last.wait_for(state="attached")  # the section is mounted only now; before, the last one is another
    page.wait_for_timeout(1000)  # and may be mounted once more, see serving.fill_in
    uploads.last.set_input_files(gallery[1]["image"])
    page.get_by_text("Settings restored.").wait_for()
    assert page.get_by_label("Prompt", exact=True).input_value() == "a bird"
    assert page.get_by_label("The input is already a control map").is_checked()
    page.get_by_role("button", name="Run", exact=True).click()
    _, again = shown(page, app)
    assert np.array_equal(again, image)


@pytest.mark.browser
def test_a_tick_that_an_example_brought_is_not_for_the_next_upload(page, picture):
    ticked = page.get_by_label("The input is already a control map")
    for by_hand in (False, True):
        page.get_by_text("light coral star with navy background").first.click()  # of the control map
        page.locator("img[alt='']").first.wait_for()
        page.wait_for_timeout(1000)
        assert ticked.is_checked()
        if by_hand:
            ticked.uncheck()
            ticked.check()
        page.get_by_label("Remove Image").first.click()
        page.set_input_files("input[type=file]", picture)
        page.wait_for_timeout(1500)
        assert ticked.is_checked() == by_hand


@pytest.mark.browser
def test_how_far_a_run_has_come_is_read_out(page, picture):
    page.set_input_files("input[type=file]", picture)
    page.get_by_text("Advanced options").click()
    fill_in(page, {"number input for Steps": "60"})
    page.get_by_role("button", name="Run", exact=True).click()
    region = page.locator("[aria-live=polite]")
    region.get_by_role("progressbar", name="Progress").wait_for()
    region.get_by_text("1 image in").wait_for()


@pytest.mark.browser
def test_what_is_painted_on_an_image_is_repainted_and_restored(page, app, client, picture, tmp_path):
    page.set_input_files("input[type=file]", picture)
    page.get_by_text("Start from an image").click()
    editor = page.locator(".block").filter(has_text="Image to start from")
    uploads = editor.locator("input[type=file]")
    uploads.last.wait_for(state="attached")
    page.wait_for_timeout(1000)  # the section may be mounted once more, see serving.fill_in
    photo = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    uploads.last.set_input_files(tmp_path / "photo.png")
    canvas = editor.locator("canvas").first
    canvas.wait_for()
    page.wait_for_timeout(1500)  # until the picture is on it
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 0.5 * box["height"], steps=8)
    page.mouse.up()
    page.get_by_text("Advanced options").click()
    fill_in(page, {"Seed": "7", "number input for Steps": "4"})
    page.get_by_role("button", name="Run", exact=True).click()
    _, image = shown(page, app)
    gallery, _, _ = client.predict(image=handle_file(picture), steps=4, seed=7, api_name="/run")
    assert not np.array_equal(image, np.asarray(Image.open(gallery[1]["image"])))
    kept = (image == photo).all(axis=2)
    assert 0.3 < kept.mean() < 0.98, "outside of the strokes the photo stays to the bit"
    source = page.locator(".grid-container img, .gallery-item img").last.get_attribute("src")
    (tmp_path / "made.png").write_bytes(page.request.get(source).body())
    record = read_record(tmp_path / "made.png")
    assert np.array_equal(pixels_of(record.mask) > 127, ~kept)

    page.reload()
    page.get_by_text("Restore settings from an image").click()
    saved = page.locator(".block").filter(has_text="Saved image").locator("input[type=file]")
    saved.last.wait_for(state="attached")
    page.wait_for_timeout(1000)
    page.get_by_text("Start from an image").click()
    page.wait_for_timeout(1000)
    saved.last.set_input_files(tmp_path / "made.png")
    page.get_by_text("Settings restored.").wait_for()
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Run", exact=True).click()
    _, again = shown(page, app)
    assert np.array_equal(again, image)


@pytest.mark.browser
def test_strokes_with_no_image_under_them_are_a_message(page, picture):
    page.set_input_files("input[type=file]", picture)
    page.get_by_text("Start from an image").click()
    page.locator("canvas").first.wait_for()
    page.wait_for_timeout(1500)  # until it is set up
    page.get_by_role("button", name="Brush").click()
    stroke(page, (-0.2, 0.0), (0.2, 0.0))
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("expected an image to start from under what is painted").first.wait_for()


@pytest.mark.browser
def test_run_without_an_image_is_a_message(page):
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("expected an image, got none: upload one, then press Run").first.wait_for()


def test_the_client_gets_the_pipelines_image(client, picture):
    chosen = {"steps": 2, "seed": 3, "images": 2, "scale": 4, "added_prompt": "", "negative_prompt": ""}
    gallery, seeds, _ = client.predict(image=handle_file(picture), prompt="a bird", **chosen, api_name="/run")
    assert seeds == "3, 4"
    assert [item["caption"] for item in gallery] == ["control map", "seed 3", "seed 4"]
    assert [Path(item["image"]).name for item in gallery] == ["canny_map.png", "canny_3.png", "canny_4.png"]
    control_map, *images = (np.asarray(Image.open(item["image"])) for item in gallery)
    assert np.array_equal(control_map, 255 - expected_map(picture))
    model = tiny.control_ldm(cond_stage_config=tiny.CLIP)
    expected = generate(model, expected_map(picture), "a bird", Settings(**chosen)).images
    for image, alone in zip(images, expected, strict=True):
        assert np.abs(image.astype(int) - alone.astype(int)).max() <= 1


def test_a_picked_seed_makes_the_image_again(client, picture):
    first, seed, _ = client.predict(image=handle_file(picture), steps=1, api_name="/run")
    again, _, _ = client.predict(image=handle_file(picture), steps=1, seed=int(seed), api_name="/run")
    assert Path(first[1]["image"]).read_bytes() == Path(again[1]["image"]).read_bytes()


def test_the_tool_makes_an_apps_image_again_to_the_byte_from_its_metadata_alone(client, picture, tmp_path):
    gallery, *_ = client.predict(image=handle_file(picture), prompt="a bird", steps=2, images=2, api_name="/run")
    saved = [item["image"] for item in gallery[1:]]
    command = [sys.executable, "tool_generate.py", "--out", str(tmp_path / "again"), "--again", *saved]
    done = subprocess.run(command, cwd=STAR.parent.parent, capture_output=True, text=True, check=True)
    assert done.stdout.count("the same bytes as") == 2
    for path in map(Path, saved):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_ten_people_who_press_run_at_once_all_get_their_images(app, picture):
    people = [Client(app.url, verbose=False) for _ in range(10)]
    jobs = [
        person.submit(image=handle_file(picture), prompt=f"bird {k}", steps=2, seed=k, scale=4, api_name="/run")
        for k, person in enumerate(people)
    ]
    model = tiny.control_ldm(cond_stage_config=tiny.CLIP)
    common = Settings(steps=2, scale=4, added_prompt="", negative_prompt="")  # a small model's page adds no words
    for k, job in enumerate(jobs):
        gallery, seeds, _ = job.result(timeout=240)
        assert seeds == str(k)
        image = np.asarray(Image.open(gallery[1]["image"])).astype(int)
        (expected,) = generate(model, expected_map(picture), f"bird {k}", replace(common, seed=k)).images
        assert np.abs(image - expected).max() <= 1


def test_the_map_alone_and_a_map_that_is_one_already(client, picture):
    gallery, _, _ = client.predict(image=handle_file(picture), api_name="/preview_map")
    (shown,) = (np.asarray(Image.open(item["image"])) for item in gallery)
    assert np.array_equal(shown, 255 - expected_map(picture))
    gallery, _, _ = client.predict(image=handle_file(picture), is_map=True, api_name="/preview_map")
    small = cv2.resize(np.asarray(Image.open(picture)), (128, 64), interpolation=cv2.INTER_AREA)
    assert np.array_equal(np.asarray(Image.open(gallery[0]["image"])), 255 - small)


def test_a_map_from_the_gallery_comes_back_as_it_was(client, picture):
    shown, *_ = client.predict(image=handle_file(picture), api_name="/preview_map")
    again, *_ = client.predict(image=handle_file(shown[0]["image"]), is_map=True, api_name="/preview_map")
    assert Path(again[0]["image"]).read_bytes() == Path(shown[0]["image"]).read_bytes()


def test_the_client_starts_from_a_plain_file(client, picture, tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    file = handle_file(tmp_path / "photo.png")
    chosen = {"image": handle_file(picture), "steps": 2, "seed": 3, "denoise": 0.5, "api_name": "/run"}
    started = [
        client.predict(init_image=given, **chosen)[0][1]["image"]
        for given in (file, {"background": file, "layers": [], "composite": None})
    ]
    assert Path(started[0]).read_bytes() == Path(started[1]).read_bytes()
    record = read_record(started[0])
    assert record.settings.denoise == 0.5
    assert np.array_equal(pixels_of(record.init_image), photo)


def test_images_know_how_they_were_made(client, picture):
    gallery, _, _ = client.predict(
        image=handle_file(picture), prompt="a bird", steps=1, seed=4, images=2, api_name="/run"
    )
    record = read_record(gallery[2]["image"])
    assert (record.prompt, record.seed, record.index, record.settings.seed) == ("a bird", 5, 1, 4)
    assert np.array_equal(pixels_of(record.controls[0].png), expected_map(picture))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps must be a whole number from 1 to 100, got 0"),
        ({"seed": None}, "seed must be a whole number from -1 to 4294967295, got None"),
        ({"resolution": 100}, "resolution must be a multiple of 64, got 100"),
        ({"canny_low_threshold": 900}, "Canny low threshold must be a whole number from 1 to 255, got 900"),
        ({"image": None}, "expected an image, got none"),
    ],
)
def test_what_cannot_be_is_a_message(client, picture, wrong, message):
    with pytest.raises(AppError, match=message):
        client.predict(**{"image": handle_file(picture), **wrong}, api_name="/run")


def test_only_files_that_were_uploaded_are_read(app, client, picture, tmp_path):
    """Requests by hand, without the upload that the client does for every file."""
    record = Record(
        "a bird", Settings(seed=3), 3, controls=(ControlMap("canny", png_of(np.zeros((64, 64, 3), np.uint8))),)
    )
    saved = save_png(tmp_path / "saved.png", np.zeros((64, 64, 3), np.uint8), record)
    for meta in ({"meta": {"_type": "gradio.FileData"}}, {}):  # gradio looks at a file's place only where there is this
        given = {"path": str(picture), **meta}
        edited = {"background": given, "layers": [given], "composite": None}
        for name, first, others in (
            ("run", given, {}),
            ("preview_map", given, {"is_map": True}),
            ("preview_map", None, {"init_image": given}),
            ("preview_map", None, {"init_image": edited}),
            ("restore", {**given, "path": str(saved)}, {}),
            ("restore", {**given, "path": str(tmp_path / "absent.png")}, {}),
        ):
            answer = answered(app, client, name, first, **others)
            assert "event: error" in answer
            assert "event: complete" not in answer
            assert "no file" not in answer, "nor whether it is there"


def answered(app: Served, client: Client, name: str, first: Any, **others: Any) -> str:
    """What an endpoint says to a request by hand; what is not given has its default."""
    api = client.view_api(return_format="dict", print_info=False)["named_endpoints"][f"/{name}"]
    defaults = {p["parameter_name"]: p["parameter_default"] for p in api["parameters"][1:]}
    data = [first, *{**defaults, **others}.values()]
    called = f"{app.url}gradio_api/call/{name}"
    joined = httpx.post(called, json={"data": data}, timeout=60)
    return httpx.get(f"{called}/{joined.json()['event_id']}", timeout=60).text


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app as it starts in a fresh clone, without flags."""
    with served("gradio_canny2image.py", tmp_path_factory.mktemp("miniature")) as running:
        yield running


@pytest.mark.browser
def test_a_fresh_clone_draws_on_the_miniature_what_the_edges_show(miniature, browser):
    page = browser.new_page()
    page.goto(miniature.url)
    page.get_by_text("Running on the bundled miniature").wait_for()
    page.set_input_files("input[type=file]", STAR)
    page.get_by_text("Advanced options").click()
    fill_in(page, {"Prompt": "gold star with navy background", "Seed": "1"})
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_alt_text("the picture as it forms").wait_for()
    _, image = shown(page, miniature)
    page.close()
    picture = cv2.resize(np.asarray(Image.open(STAR).convert("RGB")), (128, 128), interpolation=cv2.INTER_AREA)
    background = picture[0, 0].astype(int)
    star = np.linalg.norm(picture - background, axis=2) > 0.5 * np.linalg.norm(picture[64, 64] - background)
    assert iou(drawn_shape(image, COLOURS["gold"], COLOURS["navy"]), star) > 0.6
    assert "control_sd15_canny.pth" in miniature.log.read_text(), "the terminal says what to put where"
