"""What `auto` means where."""

import copy

import pytest
import torch
from masklake.model import presets, scenes
from masklake.model.engine.precision import AUTO, chosen, fastest, full_float32, has_bfloat16
from masklake.model.predictor import Predictor
from masklake.model.train.recipe import Recipe

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "environment", "native"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, {}, True),  # Zen 4, Cooper Lake
        ({"avx512_bf16": False, "amx_bf16": True}, {}, True),
        ({"avx512_f": True, "avx512_vnni": True, "avx512_bf16": False, "amx_bf16": False}, {}, False),  # Ice Lake
        ({"avx2": True}, {}, False),
        ({"architecture": "aarch64"}, {}, False),
        ({"avx512_bf16": True}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, False),
        ({"avx512_bf16": True}, {"DNNL_MAX_CPU_ISA": "avx512_core_vnni"}, False),
        ({"avx512_bf16": True}, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, True),
        ({"amx_bf16": True}, {"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, True),
    ],
)  # fmt: skip
def test_bfloat16_is_for_processors_that_have_it(
    capabilities: dict[str, object], environment: dict[str, str], native: bool
) -> None:
    assert has_bfloat16(capabilities, environment) == native


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((6, 1), "float32"), ((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16"), ((12, 0), "bfloat16")],
)  # fmt: skip
def test_bfloat16_is_for_gpus_from_ampere_on(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fastest(torch.device("cuda")) == precision


def test_what_is_said_is_taken() -> None:
    assert chosen("float16", CPU) == "float16"
    assert chosen(AUTO, CPU) == fastest(CPU)


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_the_default(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    expected = "bfloat16" if native else "float32"
    predictor = Predictor(presets.load_model("demo"), device="cpu")
    assert predictor.precision == expected
    assert Recipe().precision == AUTO
    assert len(predictor.predict([scenes.scene(5, 0).image])) == 1


def test_without_tf32_and_with_it_again() -> None:
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = copy.copy(conv.fp32_precision), copy.copy(matmul.fp32_precision)
    with pytest.raises(ZeroDivisionError), full_float32():
        assert (conv.fp32_precision, matmul.fp32_precision) == ("ieee", "ieee")
        raise ZeroDivisionError
    assert (conv.fp32_precision, matmul.fp32_precision) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_float32_on_cuda_only_rounds() -> None:
    """With TF32 the differences are a hundred times these."""
    demo = presets.load_model("demo")
    images = [scenes.scene(5, index).image for index in range(8)]
    on_gpu = Predictor(demo, device="cuda", precision="float32").predict(images)
    on_cpu = Predictor(demo, device="cpu", precision="float32").predict(images)
    for a, b in zip(on_gpu, on_cpu, strict=True):
        torch.testing.assert_close(torch.tensor(a.boxes), torch.tensor(b.boxes), rtol=0, atol=2e-2)  # type: ignore[union-attr]  # no failure
        torch.testing.assert_close(torch.tensor(a.scores), torch.tensor(b.scores), rtol=0, atol=2e-4)  # type: ignore[union-attr]  # no failure
