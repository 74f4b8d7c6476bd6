"""Generate images that follow what is drawn in the browser. Run with --help for options."""

from annotator.scribble import ScribbleDetector
from cldm.demo import Demo, black_and_white, invert, main

demo = Demo(
    title="Control Stable Diffusion with Interactive Scribbles",
    name="scribble_interactive",
    control="scribble",
    detector=ScribbleDetector,
    canvas=True,
    network=black_and_white,
    preview=invert,
    looks="The background has white strokes on black",
)

if __name__ == "__main__":
    main(demo)
