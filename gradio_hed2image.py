"""Generate images that follow the soft edges of a photo. Run with --help for options."""

from annotator.hed import HEDdetector
from cldm.demo import Demo, main

demo = Demo(
    title="Control Stable Diffusion with HED Maps",
    control="hed",
    detector=HEDdetector,
    weights="hed",
    detect_at=512,
    looks="Soft white edges on black",
    picture=("cat.png", "a cat"),
)

if __name__ == "__main__":
    main(demo)
