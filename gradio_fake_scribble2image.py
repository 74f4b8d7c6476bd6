"""Generate images that follow a photo's edges as broad scribbles. Run with --help for options."""

from annotator.hed import HEDdetector
from annotator.scribble import strokes
from cldm.demo import Demo, black_and_white, invert, main

demo = Demo(
    title="Control Stable Diffusion with Fake Scribble Maps",
    name="fake_scribble",
    control="scribble",
    detector=HEDdetector,
    weights="hed",
    detect_at=512,
    finish=strokes,
    network=black_and_white,
    preview=invert,
    looks="White strokes on black",
    picture=("cat.png", "a cat"),
)

if __name__ == "__main__":
    main(demo)
