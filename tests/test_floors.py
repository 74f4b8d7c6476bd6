"""Who may import whom: a module knows only the floors below its own, see docs/architecture.md."""

import ast
import re
from collections.abc import Iterator, Mapping

import pytest

from imports import imports, known_module, module_name, sources

FLOORS = {
    "ldm.util": 0,
    "ldm.deferred": 0,
    "ldm.modules": 1,
    "ldm.models": 2,
    "cldm": 3,
    "cldm.pipeline": 4,
    "cldm.again": 4,
    "cldm.apps": 5,
    "cldm.maps": 5,
    "cldm.restoring": 5,
    "cldm.starts": 5,
    "cldm.jobs": 5,
    "cldm.machine": 5,
    "cldm.further": 5,
    "cldm.runner": 5,
    "cldm.demo": 5,
    "training": 6,
    "bench": 6,
    "test_imgs": 6,
    "tests": 6,
}
"""Of modules by the longest name that they begin with. Scripts at the root are on floor 6."""

TOWER = "annotator"
APPS = 5
"""The lowest floor that may know the annotators."""

GRADIO = {"cldm.demo", "gradio_annotator"}
NEVER = {"mmcv", "basicsr", "timm", "xformers"}
NETWORKS = ("ldm/", "cldm/", "annotator/")


def floor_of(module: str) -> int | None:
    if re.fullmatch(r"(gradio|tool|tutorial)_\w+", module):
        return 6
    names = [name for name in FLOORS if f"{module}.".startswith(f"{name}.")]
    return FLOORS[max(names, key=len)] if names else None


def broken_imports(files: Mapping[str, str]) -> Iterator[str]:
    """A line for every import that is not allowed, and for every module that has no floor."""
    modules = {module_name(path): path for path in files}
    for path, text in files.items():
        module = module_name(path)
        for line, name in imports(path, text):
            target = known_module(name, modules)
            reason = _outside(module, name) if target is None else _inside(module, target)
            if reason:
                yield f"{path}:{line} imports {name}: {reason}"


def _outside(module: str, name: str) -> str | None:
    package = name.split(".")[0]
    if package in NEVER:
        return "never used here"
    knows_gradio = any(f"{module}.".startswith(f"{name}.") for name in GRADIO) or module.startswith("tests.")
    if package == "gradio" and not knows_gradio:
        return f"only {' and '.join(sorted(GRADIO))} know gradio"
    return None


def _inside(module: str, target: str) -> str | None:
    from_tower, to_tower = (name.split(".")[0] == TOWER for name in (module, target))
    if from_tower:
        return None if to_tower else "annotators know nothing of the project but annotators"
    if target in ("ldm", "ldm.modules", "ldm.models"):
        return None  # empty packages
    floor = floor_of(module)
    floor_there = APPS - 1 if to_tower else floor_of(target)
    if floor is None or floor_there is None:
        return f"{module if floor is None else target} has no floor: give it one in tests/test_floors.py"
    if floor < floor_there or (to_tower and floor < APPS):
        return f"from floor {floor}, only those below may be known"
    return None


def device_literals(path: str, text: str) -> Iterator[str]:
    """A line for every device that is written into code: `.cuda()`, "cuda:0", or an accelerator given or defaulted to.

    Comparing a device with "cuda" is no choice of one, and the CPU is always there.
    """
    tree = ast.parse(text, path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            passed_on = node.args and isinstance(node.args[0], ast.Name)  # the caller's choice
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("cuda", "mps") and not passed_on:
                yield f"{path}:{node.lineno} calls .{node.func.attr}()"
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            given = [*node.args.defaults, *node.args.kw_defaults]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            given = [node.value]
        else:
            continue
        for value in given:
            if isinstance(value, ast.Constant) and re.fullmatch(r"(cuda|mps)(:\d+)?", str(value.value)):
                yield f"{path}:{value.lineno} chooses {value.value!r}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and re.fullmatch(r"cuda:\d+", str(node.value)):
            yield f"{path}:{node.lineno} names {node.value!r}"


def test_everyone_imports_from_below():
    assert list(broken_imports(sources())) == []


def test_every_module_has_a_floor():
    modules = [module_name(path) for path, text in sources().items() if text]
    assert [m for m in modules if floor_of(m) is None and m.split(".")[0] != TOWER] == []


def test_no_device_is_written_into_networks():
    files = {path: text for path, text in sources().items() if path.startswith(NETWORKS)}
    assert [line for path, text in files.items() for line in device_literals(path, text)] == []


def test_double_precision_is_computed_on_the_cpu():
    """Apple's GPUs have none, and no machine that tests run on has one."""
    files = {path: text for path, text in sources().items() if path.startswith(NETWORKS)}
    lines = [(path, line.strip()) for path, text in files.items() for line in text.splitlines() if ".double()" in line]
    assert len(lines) >= 4
    of_files = {"cldm/weights/transfer_control.py"}
    assert [(path, line) for path, line in lines if path not in of_files and ".cpu().double()" not in line] == []


def test_the_walk_sees_the_projects_files():
    files = sources()
    assert {"ldm/util.py", "cldm/pipeline.py", "annotator/hed/__init__.py", "tutorial_train.py"} <= files.keys()
    seen = {name for path, text in files.items() for _, name in imports(path, text)}
    assert {"gradio", "torch", "ldm.util.instantiate_from_config", "annotator.util.HWC3"} <= seen


PROJECT = dict.fromkeys(
    [
        "ldm/__init__.py",
        "ldm/util.py",
        "ldm/modules/__init__.py",
        "ldm/modules/attention.py",
        "ldm/models/autoencoder.py",
        "cldm/__init__.py",
        "cldm/cldm.py",
        "cldm/weights/reading.py",
        "cldm/pipeline.py",
        "cldm/demo/__init__.py",
        "cldm/demo/page.py",
        "cldm/demo_data.py",
        "annotator/__init__.py",
        "annotator/util.py",
        "annotator/hed/__init__.py",
        "tests/tiny.py",
        "training/mini/make.py",
        "tool_demo.py",
        "gradio_annotator.py",
        "gradio_canny2image.py",
    ],
    "",
)


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("ldm/util.py", "import ldm.modules.attention", "from floor 0"),
        ("ldm/modules/attention.py", "from ldm.models.autoencoder import AutoencoderKL", "from floor 1"),
        ("ldm/modules/attention.py", "from ..models import autoencoder", "from floor 1"),
        ("ldm/models/autoencoder.py", "def f():\n    from cldm.cldm import ControlNet", "from floor 2"),
        ("ldm/models/autoencoder.py", "from cldm import cldm", "from floor 2"),
        ("ldm/models/autoencoder.py", "import importlib\nimportlib.import_module('cldm.cldm')", "from floor 2"),
        ("cldm/weights/reading.py", "from cldm.pipeline import generate", "from floor 3"),
        ("cldm/weights/reading.py", "from .. import pipeline", "from floor 3"),
        ("cldm/cldm.py", "if False:\n    import annotator.hed", "from floor 3"),
        ("cldm/pipeline.py", "from annotator.util import HWC3", "from floor 4"),
        ("cldm/pipeline.py", "from annotator import util", "from floor 4"),
        ("cldm/pipeline.py", "import cldm.demo", "from floor 4"),
        ("cldm/pipeline.py", "from gradio import Blocks", "only cldm.demo and gradio_annotator know gradio"),
        ("gradio_canny2image.py", "import gradio as gr", "only cldm.demo and gradio_annotator know gradio"),
        ("cldm/demo_data.py", "import gradio", "only cldm.demo and gradio_annotator know gradio"),
        ("cldm/demo/__init__.py", "import tool_demo", "from floor 5"),
        ("cldm/demo/page.py", "from tests import tiny", "from floor 5"),
        ("annotator/hed/__init__.py", "from ldm.util import choose_device", "annotators know nothing"),
        ("annotator/util.py", "import cldm", "annotators know nothing"),
        ("annotator/util.py", "import tool_demo", "annotators know nothing"),
        ("annotator/util.py", "from basicsr.utils import img2tensor", "never used here"),
        ("ldm/modules/attention.py", "try:\n    import xformers.ops\nexcept ImportError:\n    pass", "never used here"),
        ("ldm/new.py", "from ldm.util import choose_device", "ldm.new has no floor"),
    ],
)
def test_imports_from_above_are_found(path, text, reason):
    (line,) = broken_imports({**PROJECT, path: text})
    assert line.startswith(f"{path}:")
    assert reason in line


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("ldm/models/autoencoder.py", "from ldm.modules.attention import CrossAttention\nfrom ldm import util"),
        ("cldm/cldm.py", "from .weights import reading\nimport torch"),
        ("cldm/demo/page.py", "import gradio\nfrom annotator.util import HWC3\nfrom cldm.pipeline import generate"),
        ("annotator/hed/__init__.py", "from annotator.util import HWC3\nfrom .. import util"),
        ("gradio_annotator.py", "import gradio\nimport annotator.hed"),
        ("tool_demo.py", "from training.mini import make\nfrom cldm import demo"),
    ],
)
def test_imports_from_below_are_allowed(path, text):
    assert list(broken_imports({**PROJECT, path: text})) == []


@pytest.mark.parametrize(
    "text",
    [
        "model.cuda()",
        "model.to('cuda')",
        "x = torch.zeros(3, device='cuda:1')",
        "torch.device('mps')",
        "def f(device='cuda'): ...",
        "def f(*, device='mps'): ...",
        "DEVICE = 'cuda'",
        "devices = ['cuda:0']",
    ],
)
def test_devices_in_code_are_found(text):
    assert list(device_literals("f.py", text))


@pytest.mark.parametrize(
    "text",
    [
        "half = device.type == 'cuda'",
        "def cuda(self, device):\n    return self.ready.cuda(device)",
        "there = {'cuda': torch.cuda.is_available(), 'mps': torch.backends.mps.is_available()}",
        "torch.zeros(3, device='cpu')",
        "def f(device='auto'):\n    'One of auto, cpu, cuda or mps.'",
    ],
)
def test_words_about_devices_are_not(text):
    assert list(device_literals("f.py", text)) == []
