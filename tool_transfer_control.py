"""Carry a ControlNet over to another Stable Diffusion 1.5. Run with --help for options."""

from pathlib import Path

from cldm.weights.command_line import transfer_control_main

if __name__ == "__main__":
    transfer_control_main(__doc__, Path(__file__).parent / "models" / "cldm_v15.yaml")
