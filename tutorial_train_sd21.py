"""Train a ControlNet for Stable Diffusion 2.1 on Fill50K.

Weights to start from: python tool_add_control_sd21.py ./models/v2-1_512-ema-pruned.ckpt ./models/control_sd21_ini.ckpt
The dataset:           the published fill50k.zip in ./training/fill50k, or python tool_make_fill50k.py
Change a setting:      python tutorial_train_sd21.py batch_size=2 learning_rate=2e-6 sd_locked=false
"""

from dataclasses import replace

from cldm.training import PLAIN_ERRORS, from_command_line
from tutorial_train import settings, train

settings = replace(
    settings,
    config="./models/cldm_v21.yaml",
    resume_path="./models/control_sd21_ini.ckpt",
)

if __name__ == "__main__":
    try:
        train(from_command_line(settings), attach="tool_add_control_sd21.py ./models/v2-1_512-ema-pruned.ckpt")
    except PLAIN_ERRORS as error:
        raise SystemExit(f"error: {error}") from error
