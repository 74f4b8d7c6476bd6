"""DPT-hybrid, the network of MiDaS 3.0: one image to inverse depth.

"Vision Transformers for Dense Prediction", arXiv:2103.13413. Parameters carry the names of the published file.
transformers has this network too, but only for square images of one fixed size.
"""

from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.midas.hybrid_vit import WIDTH, HybridViT

FEATURES = 256  # channels of every map in the decoder
MULTIPLE = 32  # image sides the network takes are multiples of this
UNUSED = ("pretrained.model.norm", "pretrained.model.head", "scratch.refinenet4.resConfUnit1")  # in the file only


class Readout(nn.Module):
    """Fold the class token into each image token; (b, h, w, 2 c) to (b, h, w, c)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x)


def reassemble(*convolutions: nn.Module) -> nn.Sequential:
    """Tokens to a map (b, c, h, w); the file counts the convolutions from 3."""
    return nn.Sequential(Readout(WIDTH), Rearrange("b h w c -> b c h w"), nn.Identity(), *convolutions)


class Encoder(nn.Module):
    """Maps at 1/4, 1/8, 1/16 and 1/32 of the image's sides."""

    def __init__(self) -> None:
        super().__init__()
        self.model = HybridViT()
        self.act_postprocess3 = reassemble(nn.Conv2d(WIDTH, WIDTH, 1))
        self.act_postprocess4 = reassemble(nn.Conv2d(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        quarter, eighth, tokens9, tokens12 = self.model(x)
        return quarter, eighth, self.act_postprocess3(tokens9), self.act_postprocess4(tokens12)


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, added to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        self.conv2 = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Add a finer map of the encoder to the decoder's, refine, and double the sides."""

    def __init__(self, skip: bool = True) -> None:
        super().__init__()
        if skip:
            self.resConfUnit1 = ResidualConvUnit()
        self.resConfUnit2 = ResidualConvUnit()
        self.out_conv = nn.Conv2d(FEATURES, FEATURES, 1)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        x = self.out_conv(self.resConfUnit2(x))  # a 1x1 convolution commutes with the resizing: a quarter of the work
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class Decoder(nn.Module):
    """Fuse the encoder's maps from coarse to fine, then predict inverse depth."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1_rn = nn.Conv2d(256, FEATURES, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(512, FEATURES, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(WIDTH, FEATURES, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(WIDTH, FEATURES, 3, padding=1, bias=False)
        self.refinenet1 = Fusion()
        self.refinenet2 = Fusion()
        self.refinenet3 = Fusion()
        self.refinenet4 = Fusion(skip=False)
        self.output_conv = nn.Sequential(
            nn.Conv2d(FEATURES, FEATURES // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(FEATURES // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
            nn.ReLU(),
        )

    def forward(self, map1: Tensor, map2: Tensor, map3: Tensor, map4: Tensor) -> Tensor:
        x = self.refinenet4(self.layer4_rn(map4))
        x = self.refinenet3(x, self.layer3_rn(map3))
        x = self.refinenet2(x, self.layer2_rn(map2))
        x = self.refinenet1(x, self.layer1_rn(map1))
        return self.output_conv(x)


class DPTHybrid(nn.Module):
    """The whole network of `dpt_hybrid-midas-501f0c75.pt`, without the parameters that it never used."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained = Encoder()
        self.scratch = Decoder()

    def forward(self, x: Tensor) -> Tensor:
        """Predict inverse depth, up to an unknown scale and shift.

        Args:
            x: RGB in [-1, 1], (b, 3, h, w), sides multiples of 32.

        Returns:
            Inverse depth, >= 0, larger is nearer, (b, h, w).
        """
        return self.scratch(*self.pretrained(x)).squeeze(1)
