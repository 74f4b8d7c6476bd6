"""Editors of images: for people who paint, and for programs, which may send a file alone."""

from typing import Any

import gradio as gr
from gradio.components.image_editor import EditorData
from pydantic import model_validator


class _Edited(EditorData):
    """What an editor sends; a file alone, of which gradio's own would see nothing, is the image under the strokes."""

    @model_validator(mode="before")
    @classmethod
    def _of_a_file(cls, sent: Any) -> Any:
        return {"background": sent} if isinstance(sent, dict) and "path" in sent else sent


def image_editor(*value: Any, **options: Any) -> gr.ImageEditor:
    """A `gradio.ImageEditor` that takes a plain file too; gradio would write stubs for a class of our own."""
    editor = gr.ImageEditor(*value, type="numpy", image_mode="RGBA", sources=["upload", "clipboard"], **options)
    editor.data_model = _Edited
    return editor
