"""Generate images in which people take the poses of a photo. Run with --help for options."""

import cv2

from annotator.openpose import OpenposeDetector
from cldm.demo import Demo, main

demo = Demo(
    title="Control Stable Diffusion with Human Pose",
    name="pose",
    control="openpose",
    detector=OpenposeDetector,
    weights="openpose",
    detect=lambda openpose, image: openpose(image)[0],
    detect_at=512,
    resize_back=cv2.INTER_NEAREST,
    looks="Skeletons in OpenPose's colours on black",
    picture=("astronaut.png", "an astronaut"),
)

if __name__ == "__main__":
    main(demo)
