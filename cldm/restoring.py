"""From a saved image back to the values of an app's page."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from cldm.apps import Demo
from cldm.model_files import APPS
from cldm.records import Record, pixels_of, png_of
from cldm.settings import PAGE_LIMITS, Limit, Settings

OF_START = ("denoise", "mask_border")
"""Settings that say nothing without an image to start from."""


@dataclass(frozen=True)
class Restored:
    """What an image was made with.

    Attributes:
        values: By the names that `Runner.run` has for them, the control map in place of the picture.
        control_map: PNG of the map, as people bring one.
        init_image: PNG of the image that it began with, if any.
        mask: PNG of where that was repainted, if any.
        notes: What is not as it was, one sentence each.
    """

    values: dict[str, Any]
    control_map: bytes
    notes: tuple[str, ...]
    init_image: bytes | None = None
    mask: bytes | None = None


def restore(demo: Demo, record: Record, resolutions: Limit, shown: set[str], changes: Sequence[str] = ()) -> Restored:
    """The page's values that make the same images again.

    Args:
        demo: The app.
        record: Of the image.
        resolutions: The page's limits.
        shown: Names of the settings that the page has.
        changes: What of the app's files and machine is not as it was, see `cldm.records.changes_since`.

    Raises:
        ValueError: If this app cannot make such an image; says which program can.
    """
    if len(record.controls) != 1:
        raise ValueError(
            f"this image was made with {len(record.controls)} control maps, and the apps take one map alone: "
            "tool_generate.py makes it again"
        )
    (control,) = record.controls
    if control.kind not in ("", demo.control, demo.name):
        app = APPS.get(control.kind)
        script = f"start gradio_{app}2image.py" if app else "tool_generate.py makes it again"
        raise ValueError(
            f"this image was made with a map of the kind {control.kind}, this app is for {demo.control}: {script}"
        )
    pixels = pixels_of(control.png)
    resolution = min(pixels.shape[:2])
    if not resolutions.lowest <= resolution <= resolutions.highest:
        raise ValueError(
            f"this image's short side has {resolution} pixels, and this app on its model makes from "
            f"{resolutions.lowest:g} to {resolutions.highest:g}: start it with the model that made the image"
        )
    settings = {f.name: getattr(record.settings, f.name) for f in fields(Settings)}
    beyond = [f"{name} = {settings[name]}" for name, limit in PAGE_LIMITS.items() if not limit.allows(settings[name])]
    if beyond:
        raise ValueError(
            f"this image was made with {', '.join(beyond)}, beyond what this page has: tool_generate.py makes it again"
        )
    begun = record.init_image is not None
    own_options = {slider.name for slider in demo.options} | {"detect_resolution"}
    values = {
        **{name: value for name, value in settings.items() if name in shown and (begun or name not in OF_START)},
        **{name: value for name, value in control.options.items() if name in own_options},
        "prompt": record.prompt,
        "resolution": resolution,
        "is_map": True,
    }
    notes = tuple(_notes(record, {**settings, **control.share}, shown, changes))
    return Restored(values, png_of(demo.network(pixels)), notes, record.init_image, record.mask)


def _notes(record: Record, settings: dict[str, Any], shown: set[str], changes: Sequence[str]) -> list[str]:
    notes = []
    if record.batch_size > 1:
        notes.append(f"It is number {record.index + 1} of {record.batch_size} images; its own seed is {record.seed}.")
    defaults = Settings()
    unusual = {name: value for name, value in settings.items() if value != getattr(defaults, name, None)}
    missing = [f"{name} = {value!r}" for name, value in unusual.items() if name not in shown]
    if missing:
        notes.append(f"This page has no field for {', '.join(missing)}: tool_generate.py makes the image again.")
    if changes:
        notes.append(f"Not as it was, so that another picture may come: {'; '.join(changes)}.")
    return notes
