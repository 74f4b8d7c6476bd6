"""Count the floating-point operations of a denoising step, without running one.

Run `python -m bench.flops` in the project's root. Networks and inputs are on the meta device, so that torch's counter
sees every multiplication and nothing is computed; a multiplication and an addition count as two operations.
"""

import argparse
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from cldm.conditions import AppliedControl, summed
from cldm.model import read_config
from ldm.util import instantiate_from_config

_TOKENS = 77


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="models/cldm_v15.yaml")
    parser.add_argument("--side", type=int, default=512, help="of the image, in pixels")
    options = parser.parse_args()
    print(f"{options.config}, {options.side} pixels\n\n| a guided step of one image | TFLOP | of the original |")
    print("|---|---|---|")
    rows = table(options.config, options.side)
    original = next(iter(rows.values()))
    for name, flops in rows.items():
        print(f"| {name} | {flops / 1e12:.3f} | {flops / original:.1%} |")


@torch.no_grad()
def table(config: str, side: int) -> dict[str, int]:
    """What is computed -> operations. First all of it anew at every step, as the original codebase does."""
    params = read_config(config)["params"]
    with torch.device("meta"):
        unet = instantiate_from_config(params["unet_config"])
        control = instantiate_from_config(params["control_stage_config"])
        latent, hint = torch.empty(1, 4, side // 8, side // 8), torch.empty(1, 3, side, side)
        t, tokens = torch.empty(1), torch.empty(1, _TOKENS, params["unet_config"]["params"]["context_dim"])

    def both(network: Any) -> Any:
        return network.text_keys(torch.cat([tokens, tokens]))

    def original() -> None:
        for _ in range(2):
            unet(latent, t, tokens, control(latent, hint, t, tokens))

    def reused(prompts: int, controls: int, latents: int = 1) -> None:
        x, times = (torch.cat([v] * latents) for v in (latent, t))
        outputs = [applied.outputs(x, times, keys[control][prompts]) for _ in range(controls)]
        unet(x, times, keys[unet][prompts], summed(outputs))

    def hidden() -> None:
        reused(1, 0)
        reused(1, 1)

    applied = AppliedControl(control, hint, [1.0] * control.num_connections)
    _ = applied.features  # made now, so that it is not counted
    keys: dict[Any, dict[int, Any]] = {n: {1: n.text_keys(tokens), 2: both(n)} for n in (unet, control)}
    return {
        "everything anew, two passes (the original)": _operations(original),
        "hint, keys and values once": _operations(lambda: reused(2, 1, latents=2)),
        "and what is before the first prompt, once for both": _operations(lambda: reused(2, 1)),
        "the same, guess mode or resolution weighting": _operations(hidden),
        "the same, two ControlNets": _operations(lambda: reused(2, 2)),
        "no ControlNet": _operations(lambda: reused(2, 0)),
        "once for a generation: hint": _operations(lambda: control.encode_hint(hint)),
        "once for a generation: keys and values": _operations(lambda: (both(unet), both(control))),
    }


def _operations(run: Any) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
