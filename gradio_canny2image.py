"""Generate images that follow the Canny edges of a photo. Run with --help for options."""

from annotator.canny import CannyDetector
from cldm.demo import Demo, Slider, invert, main

demo = Demo(
    title="Control Stable Diffusion with Canny Edge Maps",
    control="canny",
    detector=CannyDetector,
    options=(
        Slider("Canny low threshold", 1, 255, 100),
        Slider("Canny high threshold", 1, 255, 200),
    ),
    preview=invert,
    looks="Thin white edges on black",
    picture=("star.png", "light coral star with navy background"),
)

if __name__ == "__main__":
    main(demo)
