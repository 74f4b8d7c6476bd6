"""Generate images that follow the straight lines of a photo. Run with --help for options."""

import cv2

from annotator.mlsd import MLSDdetector
from cldm.demo import Demo, Slider, main, thicken_and_invert

demo = Demo(
    title="Control Stable Diffusion with Hough Line Maps",
    name="hough",
    control="mlsd",
    detector=MLSDdetector,
    weights="mlsd",
    detect_at=512,
    resize_back=cv2.INTER_NEAREST,
    options=(
        Slider("M-LSD value threshold", 0.01, 2, 0.1, step=0.01),
        Slider("M-LSD distance threshold", 0.01, 20, 0.1, step=0.01),
    ),
    preview=thicken_and_invert,
    looks="Straight white lines on black, one pixel wide",
    picture=("temple.jpg", "a temple by a lake"),
)

if __name__ == "__main__":
    main(demo)
