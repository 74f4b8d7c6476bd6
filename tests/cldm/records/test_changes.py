"""What is not as it was when an image was made."""

from dataclasses import replace

from cldm.records import Record, Runtime, WeightsFile, changes_since
from cldm.settings import Settings

BASE, CONTROL = WeightsFile("sd.safetensors", 12, "a" * 64), WeightsFile("control.pth", 7, "b" * 64)
YAML = WeightsFile("sd.yaml", 3, "c" * 64)
RUNTIME = Runtime("cpu", "float32", 2, {"save_memory": True}, {"torch": "2.0"})
RECORD = Record("", Settings(seed=3), 3, weights=(BASE,), control_weights=(CONTROL,), config=YAML, runtime=RUNTIME)


def test_nothing_has_changed():
    assert changes_since(RECORD, RECORD) == []
    renamed = replace(BASE, name="other")
    assert changes_since(RECORD, replace(RECORD, weights=(renamed, CONTROL), control_weights=())) == []
    assert changes_since(replace(RECORD, runtime=None, config=None), RECORD) == []


def test_another_file_is_told_by_its_hash():
    others = {"weights": BASE, "control_weights": CONTROL}
    for name, file in others.items():
        (said,) = changes_since(RECORD, replace(RECORD, **{name: (replace(file, sha256="d" * 64),)}))
        assert f"{file.name} (SHA-256 dddddddddddd...) is not {file.name} ({file.sha256[:12]}...)" in said
    (said,) = changes_since(RECORD, replace(RECORD, config=replace(YAML, sha256="d" * 64)))
    assert said.startswith("sd.yaml (SHA-256 dddddddddddd...) is not sd.yaml")


def test_a_file_that_is_not_hashed_is_told_by_size_and_name():
    def said(**changes):
        return changes_since(RECORD, replace(RECORD, weights=(replace(BASE, sha256="", **changes),)))

    assert said() == []
    wanted = "is not sd.safetensors (12 bytes), which the image was made with"
    assert said(bytes=13) == [f"sd.safetensors (13 bytes) {wanted}"]
    assert said(name="x.ckpt") == [f"x.ckpt (12 bytes) {wanted}"]


def test_another_number_of_files():
    (said,) = changes_since(RECORD, replace(RECORD, control_weights=()))
    assert said == "sd.safetensors are not the files sd.safetensors, control.pth, which the image was made with"


def test_another_machine():
    runtime = Runtime("cuda:0", "float16", 2, {}, {"torch": "2.1"})
    assert changes_since(RECORD, replace(RECORD, runtime=runtime)) == [
        "device: cpu then, cuda:0 now",
        "precision: float32 then, float16 now",
        "save_memory: True then, False now",
        "torch: 2.0 then, 2.1 now",
    ]
