import math

from annotator.manifest import DETECTOR_FILES
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
    for entry in DETECTOR_FILES.values():
        assert entry.sources
        for source in entry.sources:
            assert source.repository.count("/") == 1
            assert source.path.split("/")[-1] == entry.file
