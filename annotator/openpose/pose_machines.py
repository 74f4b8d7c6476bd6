"""The convolutional pose machines behind OpenPose, under the layer names of the published files.

A VGG-19 front yields features at an eighth of the image. Six stages then read them, each but the first together
with what the stage before it concluded. The body network has two branches per stage, fields and heat maps (Cao et
al., figure 3); the hand network has one (Simon et al.).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

BOX = 368  # side in pixels of the images that the networks were trained on
STRIDE = 8  # image pixels per output cell
LATER_STAGES = range(2, 7)  # every one has the same seven layers
FIELDS = 38  # an x and a y channel for each of 19 limbs
BODY_HEATMAPS = 19  # 18 joints and the background
HAND_HEATMAPS = 22  # 21 joints and the background

VGG = {
    **{"conv1_1": 64, "conv1_2": 64, "conv2_1": 128, "conv2_2": 128},
    **{"conv3_1": 256, "conv3_2": 256, "conv3_3": 256, "conv3_4": 256, "conv4_1": 512, "conv4_2": 512},
}
BODY_FRONT = VGG | {"conv4_3_CPM": 256, "conv4_4_CPM": 128}
HAND_FRONT = VGG | {"conv4_3": 512, "conv4_4": 512, "conv5_1": 512, "conv5_2": 512, "conv5_3_CPM": 128}
POOLED_BEFORE = ("conv2_1", "conv3_1", "conv4_1")


class _Layers(nn.Module):
    """Convolutions that keep the size of their input, run by the names under which they are stored."""

    def _add(self, name: str, c_in: int, c_out: int, kernel_size: int) -> str:
        self.add_module(name, nn.Conv2d(c_in, c_out, kernel_size, padding=kernel_size // 2))
        return name

    def _add_front(self, widths: dict[str, int]) -> list[str]:
        c_in = (3, *widths.values())
        return [self._add(name, c, c_out, 3) for c, (name, c_out) in zip(c_in, widths.items(), strict=False)]

    def _add_later_stage(self, suffix: str, c_in: int, c_out: int) -> list[str]:
        shapes = [(c_in, 128, 7), *[(128, 128, 7)] * 4, (128, 128, 1), (128, c_out, 1)]
        return [self._add(f"Mconv{i}_{suffix}", *shape) for i, shape in enumerate(shapes, start=1)]

    def _run(self, names: list[str], x: Tensor, end_in_relu: bool) -> Tensor:
        for name in names:
            if name in POOLED_BEFORE:
                x = functional.max_pool2d(x, 2)
            x = self.get_submodule(name)(x)
            if end_in_relu or name != names[-1]:
                x = functional.relu_(x)
        return x


class BodyNetwork(_Layers):
    """Finds joints and limbs of people; layers of `body_pose_model.pth`."""

    def __init__(self) -> None:
        super().__init__()
        self._front = self._add_front(BODY_FRONT)
        self._stages = [(self._add_first_branch("L1", FIELDS), self._add_first_branch("L2", BODY_HEATMAPS))]
        c_in = FIELDS + BODY_HEATMAPS + BODY_FRONT["conv4_4_CPM"]
        for i in LATER_STAGES:
            fields = self._add_later_stage(f"stage{i}_L1", c_in, FIELDS)
            heatmaps = self._add_later_stage(f"stage{i}_L2", c_in, BODY_HEATMAPS)
            self._stages.append((fields, heatmaps))

    def _add_first_branch(self, suffix: str, c_out: int) -> list[str]:
        shapes = [*[(128, 128, 3)] * 3, (128, 512, 1), (512, c_out, 1)]
        return [self._add(f"conv5_{i}_CPM_{suffix}", *shape) for i, shape in enumerate(shapes, start=1)]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Locate joints and limbs.

        Args:
            image: BGR / 256 - 0.5, (b, 3, H, W), sides multiples of 8.

        Returns:
            Fields (b, 38, H / 8, W / 8) and heat maps (b, 19, H / 8, W / 8) of the last stage.
        """
        x = features = self._run(self._front, image, end_in_relu=True)
        for stage in self._stages:
            fields_branch, heatmaps_branch = stage
            fields = self._run(fields_branch, x, end_in_relu=False)
            # The published detector has this ReLU in the last stage alone, and in one branch.
            heatmaps = self._run(heatmaps_branch, x, end_in_relu=stage is self._stages[-1])
            x = torch.cat([fields, heatmaps, features], dim=1)
        return fields, heatmaps


class HandNetwork(_Layers):
    """Finds the joints of one hand that fills the image; layers of `hand_pose_model.pth`."""

    def __init__(self) -> None:
        super().__init__()
        self._front = self._add_front(HAND_FRONT)
        c = HAND_FRONT["conv5_3_CPM"]
        self._stages = [[self._add("conv6_1_CPM", c, 512, 1), self._add("conv6_2_CPM", 512, HAND_HEATMAPS, 1)]]
        self._stages += [self._add_later_stage(f"stage{i}", HAND_HEATMAPS + c, HAND_HEATMAPS) for i in LATER_STAGES]

    def forward(self, image: Tensor) -> Tensor:
        """Locate joints.

        Args:
            image: BGR / 256 - 0.5, (b, 3, H, W), sides multiples of 8.

        Returns:
            Heat maps of the last stage, (b, 22, H / 8, W / 8).
        """
        x = features = self._run(self._front, image, end_in_relu=True)
        for stage in self._stages:
            heatmaps = self._run(stage, x, end_in_relu=False)
            x = torch.cat([heatmaps, features], dim=1)
        return heatmaps
