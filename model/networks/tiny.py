"""A small convolutional backbone with a feature pyramid, trained from nothing: the demo model's features."""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1
from torchvision.ops import FeaturePyramidNetwork

STEM_WIDTH = 32
WIDTHS = (48, 64, 128, 160)
BLOCKS = (1, 2, 2, 1)


class TinyFPN(nn.Module):
    """Residual stages at strides 4 to 32, a pyramid over the last three (He et al. 2015, Lin et al. 2017).

    Has what torchvision's detection models ask of a backbone: images (N, 3, H, W) in, an ordered dict of
    feature maps "0", "1", "2" (N, out_channels, H/8 … H/32, W/8 … W/32) out, and `out_channels`. Without a
    stride-4 map the regions' features are coarser than in a ResNet-FPN, and the whole several times cheaper.
    """

    def __init__(self, out_channels: int = 64) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, STEM_WIDTH, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(STEM_WIDTH),
            nn.ReLU(inplace=True),
        )
        stages = []
        width_in = STEM_WIDTH
        for width, blocks in zip(WIDTHS, BLOCKS, strict=True):
            shortcut = nn.Sequential(conv1x1(width_in, width, stride=2), nn.BatchNorm2d(width))
            first = BasicBlock(width_in, width, stride=2, downsample=shortcut)
            stages.append(nn.Sequential(first, *(BasicBlock(width, width) for _ in range(blocks - 1))))
            width_in = width
        self.stages = nn.ModuleList(stages)
        self.fpn = FeaturePyramidNetwork(list(WIDTHS[1:]), out_channels)
        for module in self.modules():
            if isinstance(module, BasicBlock):
                # Each block starts as its shortcut: steadier from nothing (Goyal et al. 2017, section 5.1).
                nn.init.zeros_(module.bn2.weight)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        features = self.stages[0](self.stem(images))
        levels = OrderedDict()
        for level, stage in enumerate(self.stages[1:]):
            features = stage(features)
            levels[str(level)] = features
        return self.fpn(levels)
