"""Generate images that follow the depth of a photo. Run with --help for options."""

from annotator.midas import MidasDetector
from cldm.demo import Demo, main

demo = Demo(
    title="Control Stable Diffusion with Depth Maps",
    control="depth",
    detector=MidasDetector,
    weights="midas",
    detect=lambda midas, image: midas(image)[0],
    detect_at=384,
    looks="Grey, the nearer the brighter",
    picture=("coffee.png", "a cup of coffee"),
)

if __name__ == "__main__":
    main(demo)
