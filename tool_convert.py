"""Turn a ControlNet into the shape that another program expects. Run with --help for options."""

from pathlib import Path

from cldm.weights.convert_command import convert_main

if __name__ == "__main__":
    convert_main(__doc__, Path(__file__).parent / "models")
