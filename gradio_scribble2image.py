"""Generate images that follow a scribble. Run with --help for options."""

from annotator.scribble import ScribbleDetector
from cldm.demo import Demo, black_and_white, invert, main

demo = Demo(
    title="Control Stable Diffusion with Scribble Maps",
    control="scribble",
    detector=ScribbleDetector,
    network=black_and_white,
    preview=invert,
    looks="White strokes on black; scribbles, black on white, are read without a tick",
    picture=("scribble_house.png", "a house with a tree"),
)

if __name__ == "__main__":
    main(demo)
