"""Generate images that follow the segments of a photo. Run with --help for options."""

import cv2

from annotator.uniformer import UniformerDetector
from cldm.demo import Demo, main

demo = Demo(
    title="Control Stable Diffusion with Segmentation Maps",
    control="seg",
    detector=UniformerDetector,
    weights="uniformer",
    detect_at=512,
    resize_back=cv2.INTER_NEAREST,
    looks="Flat segments in the colours of ADE20K's classes",
    picture=("temple.jpg", "a temple by a lake"),
)

if __name__ == "__main__":
    main(demo)
