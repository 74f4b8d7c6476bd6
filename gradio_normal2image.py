"""Generate images that follow the surfaces of a photo. Run with --help for options."""

from annotator.midas import MidasDetector
from cldm.demo import Demo, Slider, main, reverse_channels

demo = Demo(
    title="Control Stable Diffusion with Normal Maps",
    control="normal",
    detector=MidasDetector,
    weights="midas",
    detect=lambda midas, image, background: midas(image, bg_th=background)[1],
    detect_at=384,
    options=(Slider("Normal background threshold", 0, 1, 0.4, step=0.01),),
    network=reverse_channels,
    looks="x, y and z of the surface's direction as red, green and blue",
    picture=("coffee.png", "a cup of coffee"),
)

if __name__ == "__main__":
    main(demo)
