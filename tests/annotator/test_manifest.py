import math

from annotator.manifest import DETECTOR_FILES, FILES, MODEL_FILES
from parity import published_names


def test_every_published_file_of_a_detector_is_listed_once() -> None:
    files = [entry.file for entry in DETECTOR_FILES.values()]
    assert sorted(files) == [
        "ControlNetHED.pth",
        "body_pose_model.pth",
        "dpt_hybrid-midas-501f0c75.pt",
        "hand_pose_model.pth",
        "mlsd_large_512_fp32.pth",
        "mlsd_tiny_512_fp32.pth",
        "upernet_global_small.pth",
    ]


def test_stated_download_sizes_fit_the_tensors() -> None:
    for name, entry in DETECTOR_FILES.items():
        megabytes = sum(4 * math.prod(shape) for _, shape in published_names(entry.file).values()) / 1e6
        if name == "hed":
            megabytes /= 2  # published in half precision
        assert math.isclose(entry.megabytes, megabytes, rel_tol=0.05), name


def test_sources_are_repositories_and_paths_that_end_in_the_file() -> None:
    for entry in FILES.values():
        assert entry.sources
        for source in entry.sources:
            assert source.repository.count("/") == 1
            assert source.path.split("/")[-1] == entry.file


def test_the_published_models_are_listed() -> None:
    controls = {f"control_sd15_{c}" for c in ("canny", "depth", "hed", "mlsd", "normal", "openpose", "scribble", "seg")}
    assert controls < set(MODEL_FILES)
    assert all(MODEL_FILES[name].file == f"{name}.pth" for name in controls)
    assert {entry.file for entry in MODEL_FILES.values()} > {"v1-5-pruned.ckpt", "v2-1_512-ema-pruned.ckpt"}
    assert {entry.folder for entry in MODEL_FILES.values()} == {"models"}
    assert not set(MODEL_FILES) & set(DETECTOR_FILES)


def test_stated_sizes_of_models_fit_the_tensors() -> None:
    def megabytes(names: str, base_only: bool = False) -> float:
        tensors = published_names(names).items()
        kept = [v for name, v in tensors if not (base_only and name.startswith("control_model."))]
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in kept) / 1e6

    for name, entry in MODEL_FILES.items():
        if name.startswith("control"):
            expected = megabytes("control_sd15")
        else:
            expected = megabytes("control_sd15" if "sd15" in name else "control_sd21", base_only=True)
        if name == "sd15":
            expected += megabytes("control_sd15", base_only=True) * 860 / 1066  # averaged weights of the U-Net too
        assert math.isclose(entry.megabytes, expected, rel_tol=0.01), name
