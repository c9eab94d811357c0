"""What says that memory did not suffice, and how a batch grows again afterwards."""

import numpy as np
import pytest
import torch
from masklake.model.engine.memory import Budget, says_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not execute a primitive"),
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype("u1")),
    ],
)  # fmt: skip
def test_it_is_memory(error: BaseException) -> None:
    assert says_out_of_memory(error)


@pytest.mark.parametrize(
    "text",
    [
        "mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "cuDNN error: CUDNN_STATUS_BAD_PARAM",
        "could not create a primitive descriptor for a convolution forward propagation primitive",
        "CUDA error: no kernel image is available for execution on the device",
    ],
)
def test_it_is_not_memory(text: str) -> None:
    assert not says_out_of_memory(RuntimeError(text))


def batches_until(budget: Budget, pixels: int) -> int:
    count = 0
    while budget.now < pixels:
        budget.went_well()
        count += 1
    return count


def test_a_budget_grows_again() -> None:
    budget = Budget(800)
    budget.shrink(400)
    budget.shrink(200)
    first = batches_until(budget, 400)
    assert batches_until(budget, 800) == first
    budget.went_well()
    assert budget.now == 800


def test_what_keeps_failing_is_tried_less_and_less() -> None:
    budget, waited = Budget(800), []
    budget.shrink(400)
    for _ in range(10):
        waited.append(batches_until(budget, 800))
        budget.shrink(400)
    assert waited[:3] == [waited[0], 2 * waited[0], 4 * waited[0]]
    assert waited[-1] == waited[-2]  # but it is tried for ever
