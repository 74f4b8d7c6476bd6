"""Attach a new ControlNet to a Stable Diffusion 2.1, ready to be trained. Run with --help for options."""

from pathlib import Path

from cldm.weights.command_line import add_control_main

if __name__ == "__main__":
    add_control_main(__doc__, Path(__file__).parent / "models" / "cldm_v21.yaml")
