"""What all pages have: how they are made and served, the flags for it, and messages to visitors."""

import argparse
import html
import sys
from collections.abc import Mapping
from typing import Any

_UPLOAD_LIMIT = "64mb"
_CACHE_CHECK, _CACHE_AGE = 3600, 86400  # seconds: uploads and results are kept for a day


def new_page(title: str) -> Any:
    """An empty page, a `gradio.Blocks`, that deletes its visitors' files after a day."""
    import gradio as gr  # takes seconds, so not before it is needed

    return gr.Blocks(title=title, analytics_enabled=False, delete_cache=(_CACHE_CHECK, _CACHE_AGE))


def serve(page: Any, flags: argparse.Namespace) -> None:
    """Serve a page until it is interrupted.

    Args:
        page: A `gradio.Blocks`.
        flags: Those of `add_serving_flags`.
    """
    try:
        page.launch(
            server_name=flags.host,
            server_port=flags.port,
            share=flags.share,
            auth=flags.auth,
            show_error=True,
            max_file_size=_UPLOAD_LIMIT,
            ssr_mode=False,
            run_history=False,
            footer_links=["api", "gradio"],
        )
    except OSError as error:
        raise SystemExit(f"cannot serve on {flags.host}: {error}") from error


def uploaded(sent: Any) -> str | None:
    """The path of a file that a visitor uploaded, or that the page gave to a visitor; None if nothing is sent.

    Gradio looks where a file is only if its description is complete, which programs can avoid.

    Args:
        sent: What gradio has for a file, with a "path".

    Raises:
        ValueError: If it is another file, whether that is there or not.
    """
    from gradio.utils import get_upload_folder, is_in_or_equal

    if not sent:
        return None
    path = sent.get("path") if isinstance(sent, Mapping) else sent
    if path is None:
        return None
    if not isinstance(path, str) or not is_in_or_equal(path, get_upload_folder()):
        raise ValueError("expected an uploaded file, got something else: upload it, or send it by handle_file(path)")
    return path


def message(text: str) -> Exception:
    """An error that the page shows until it is closed, and that the terminal says in one line."""
    import gradio as gr

    print(f"Error: {text}", file=sys.stderr)
    return gr.Error(html.escape(text, quote=False), duration=None, print_exception=False)


def add_serving_flags(parser: argparse.ArgumentParser) -> None:
    """Add what every app is started with: the device, and who may reach the page."""
    parser.add_argument("--device", default="auto", help="auto (the default), cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve on, by default this machine alone; 0.0.0.0 is every network",
    )
    parser.add_argument("--port", type=int, help="by default the first free one from 7860")
    parser.add_argument("--share", action="store_true", help="also serve under a public address of gradio.live")
    parser.add_argument("--auth", type=_name_and_password, metavar="NAME:PASSWORD", help="ask visitors for these")


def _name_and_password(text: str) -> tuple[str, str]:
    name, _, password = text.partition(":")
    if not name or not password:
        raise argparse.ArgumentTypeError(f"expected NAME:PASSWORD, got {text!r}")
    return name, password
