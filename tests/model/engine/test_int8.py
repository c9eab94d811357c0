"""Convolutions in 8 bits: near the floats, the same for the same calibration, and refused where they would overflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from masklake.model import presets, scenes
from masklake.model.calibrate import calibrate
from masklake.model.checkpoint import LoadedModel
from masklake.model.detections import Detections
from masklake.model.engine import int8
from masklake.model.engine.fused_cpu import layer
from masklake.model.engine.int8 import Calibration, Int8Conv, ToBytes, has_vnni
from masklake.model.errors import ModelError
from masklake.model.predictor import Predictor
from numpy.typing import NDArray
from torch import fx, nn

from tests.helpers.reference import closest

pytestmark = pytest.mark.skipif(not int8.supported(), reason="this torch has no operators in 8 bits")


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return presets.load_model("demo")


@pytest.fixture(scope="module")
def calibration(demo: LoadedModel) -> Calibration:
    return calibrate(demo, _drawn(9, 4))


def _drawn(seed: int, count: int) -> list[NDArray[np.uint8]]:
    return [scenes.scene(seed, index, (240, 320)).image for index in range(count)]


def test_it_finds_what_floats_find(demo: LoadedModel, calibration: Calibration) -> None:
    exact = Predictor(demo, device="cpu", precision="float32")
    fast = Predictor(demo, device="cpu", precision="int8", calibration=calibration)
    modules = fast._engine.detector._backbone.modules()  # type: ignore[attr-defined]  # FastParts has it
    assert sum(isinstance(module, Int8Conv) for module in modules) > 10
    images, best = _drawn(10, 6), []
    for a, b in zip(exact.predict(images), fast.predict(images), strict=True):
        assert isinstance(a, Detections)
        assert isinstance(b, Detections)
        best += closest(a, b)[0].tolist()
    assert len(best) > 15
    assert np.mean(np.asarray(best) > 0.9) > 0.9


def test_the_same_images_calibrate_alike_and_json_keeps_all(
    demo: LoadedModel, calibration: Calibration
) -> None:
    assert calibrate(demo, _drawn(9, 4)) == calibration
    assert Calibration.from_json(calibration.to_json(), "c.json") == calibration
    for text in (
        '{"levels": 127}',
        '{"levels": 128, "ranges": [{}]}',
        '{"levels": 127, "ranges": [{"backbone.x": [0, NaN]}]}',
        '{"levels": 127, "ranges": [{"backbone.x": [-Infinity, 0]}]}',
        '{"levels": 127, "ranges": [{"backbone.x": [1, 0]}]}',
    ):
        with pytest.raises(ModelError, match=r"c\.json: is no calibration"):
            Calibration.from_json(text, "c.json")
    with pytest.raises(ModelError, match="no image to calibrate by"):
        calibrate(demo, [b"no picture"])


def test_values_that_are_not_finite_tell_nothing() -> None:
    """They would make a scale of infinity, or none at all."""
    ranges: int8.Ranges = {}
    observer = int8.Observer(fx.symbolic_trace(nn.Identity()), ranges, "part")
    for values in ([0.0, 1.0], [-2.0, torch.nan], [torch.inf, 3.0], [-1.0, 0.5]):
        observer(torch.tensor(values))
    assert set(ranges.values()) == {(-1.0, 1.0)}


def test_images_without_things_come_first(demo: LoadedModel, calibration: Calibration) -> None:
    """The heads' first batch is empty then; and where all of a calibration's are so, they stay in floats."""
    blank, scene = np.full((240, 320, 3), 128, np.uint8), _drawn(10, 1)[0]
    expected = Predictor(demo, device="cpu", precision="int8", calibration=calibration).predict([scene])[0]
    assert isinstance(expected, Detections)
    for made_by in (calibration, calibrate(demo, [blank])):
        predictor = Predictor(demo, device="cpu", precision="int8", calibration=made_by, score_threshold=0.3)
        none, found = predictor.predict([blank, scene])
        assert isinstance(none, Detections)
        assert isinstance(found, Detections)
        assert len(none) == 0
        assert len(found) > 0


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("source", [(0.02, 0), (0.02, 120)])
def test_a_convolution_is_torchs_within_its_steps(source: tuple[float, int], added: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 24, 3, padding=1)
    fused = layer(conv, "relu", [], added)
    ours = Int8Conv(fused, int8.levels_here(), source, None, None, keep_other=True)  # type: ignore[arg-type]  # a FusedConv
    low = -source[0] * source[1]
    x = (torch.rand(2, 32, 9, 11) * 255 * source[0] + low).contiguous(memory_format=torch.channels_last)
    other = torch.randn(2, 24, 9, 11).contiguous(memory_format=torch.channels_last)
    more = (other,) if added else ()
    with torch.inference_mode():
        expected = (conv(x) + sum(more)).relu()
        result = ours(ToBytes(*source)(x), *more)
    assert (result - expected).abs().max() < 0.02 * expected.abs().max()


def test_what_cannot_be_is_refused(
    demo: LoadedModel, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="int8 needs a calibration"):
        Predictor(demo, device="cpu", precision="int8")
    with pytest.raises(ModelError, match="int8 needs a calibration"):
        Predictor(demo, device="cpu", precision="float32", calibration=calibration)
    of_another = replace(calibration, ranges=({"backbone.x": (0.0, 1.0)},))
    with pytest.raises(ModelError, match="nothing is known of backbone"):
        Predictor(demo, device="cpu", precision="int8", calibration=of_another)
    with pytest.raises(ModelError, match="of a model of 1 networks"):
        calibration.of_network(1)
    monkeypatch.setattr(int8, "levels_here", lambda: 63)
    with pytest.raises(ModelError, match="sums would overflow"):
        Predictor(demo, device="cpu", precision="int8", calibration=replace(calibration, levels=127))


@pytest.mark.parametrize(
    ("capabilities", "environment", "expected"),
    [
        ({"avx512_vnni": True}, {}, True),
        ({"avx_vnni": True}, {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}, True),
        ({"avx512_vnni": True}, {"ONEDNN_MAX_CPU_ISA": "avx2"}, False),
        ({"avx512_vnni": True}, {"DNNL_MAX_CPU_ISA": "AVX512_CORE"}, False),
        ({"avx512_f": True}, {}, False),
        # a cap on one encoding is not a leave for the other
        ({"avx512_vnni": True}, {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}, False),
        ({"avx_vnni": True}, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, False),
        ({"avx512_vnni": True}, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, True),
        ({"avx_vnni": True}, {"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, True),
    ],
)
def test_where_vnni_is(
    capabilities: Mapping[str, object], environment: Mapping[str, str], expected: bool
) -> None:
    assert has_vnni(capabilities, environment) == expected
