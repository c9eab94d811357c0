import torch
from masklake.model.networks.tiny import TinyFPN


def test_gives_maps_at_strides_8_16_32_and_names_their_width():
    backbone = TinyFPN(48).eval()
    assert backbone.out_channels == 48
    with torch.inference_mode():
        maps = backbone(torch.zeros(2, 3, 128, 192))
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "0": (2, 48, 16, 24),
        "1": (2, 48, 8, 12),
        "2": (2, 48, 4, 6),
    }


def test_stays_small():
    assert sum(p.numel() for p in TinyFPN().parameters()) < 1_500_000


def test_learns_in_every_part():
    torch.manual_seed(0)
    backbone = TinyFPN(16).train()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.01)
    images = torch.rand(2, 3, 64, 64)
    # Residual branches start at zero, so their convolutions get a gradient from the second step on.
    for _ in range(2):
        optimizer.zero_grad()
        sum(m.square().mean() for m in backbone(images).values()).backward()
        optimizer.step()
    without = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
