"""Fold normalisation with fixed statistics into the convolution before it: one pass over the features less."""

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d


def fold_norms(module: nn.Module) -> nn.Module:
    """`module` itself, in evaluation mode, with each convolution and the batch norm after it made one convolution.

    A norm follows a convolution where it is the next child of the same parent, as everywhere in torchvision's
    backbones and heads. Results differ from the unfolded network's by float32 rounding only.
    """
    module.eval()
    for parent in module.modules():
        children = list(parent.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
                continue
            mean, var = norm.running_mean, norm.running_var
            if mean is None or var is None:  # it takes the batch's own statistics
                continue
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias
            )
            conv.weight, conv.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
            setattr(parent, name, nn.Identity())
    return module
