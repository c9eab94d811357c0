"""CUDA kernels on the host: compiled as C++, a thread of the block a thread of the host, block after block.

It shows that a kernel computes what it should, and is called as it is declared; how it does on a GPU it does not show.
"""

import ctypes
import importlib.resources
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

_SHIM = """
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>
#define __device__
#define __global__
#define __shared__ static
using std::min;
struct dim { int x, y, z; };
static thread_local dim threadIdx, blockIdx;
static dim gridDim, blockDim;
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned int x, y, z, w; };
static float __fmul_rn(float a, float b) { return a * b; }
static float __fadd_rn(float a, float b) { return a + b; }
static float __fsub_rn(float a, float b) { return a - b; }
static float __fdiv_rn(float a, float b) { return a / b; }
static unsigned int __float_as_uint(float a) { unsigned int b; std::memcpy(&b, &a, 4); return b; }
static float __uint_as_float(unsigned int a) { float b; std::memcpy(&b, &a, 4); return b; }
static float __int_as_float(int a) { float b; std::memcpy(&b, &a, 4); return b; }
static std::barrier<>* all_threads;
static void __syncthreads() { all_threads->arrive_and_wait(); }
static unsigned long long lanes[32];
static unsigned long long __shfl_sync(unsigned int, unsigned long long value, int lane) {
    lanes[threadIdx.x] = value;
    __syncthreads();
    const unsigned long long result = lanes[lane];
    __syncthreads();
    return result;
}
"""

_LAUNCH = """
extern "C" void launch(int gx, int gy, int gz, int bx, int by, int bz, void** args) {{
    gridDim = {{gx, gy, gz}}; blockDim = {{bx, by, bz}};
    std::barrier<> barrier(bx * by * bz), blocks(bx * by * bz);
    all_threads = &barrier;
    std::vector<std::thread> threads;
    for (int t = 0; t < bx * by * bz; ++t) threads.emplace_back([=, &blocks] {{
        threadIdx = {{t % bx, t / bx % by, t / bx / by}};
        for (int z = 0; z < gz; ++z) for (int y = 0; y < gy; ++y) for (int x = 0; x < gx; ++x) {{
            blockIdx = {{x, y, z}};
            {call}
            {between}
        }}
    }});
    for (auto& thread : threads) thread.join();
}}
"""


def on_host(name: str, define: str, folder: Path) -> Callable[..., None]:
    """The kernel of this name of `model.engine`, called as on a GPU; what it needs lies in `folder`."""
    source = (importlib.resources.files("masklake.model.engine") / f"{name}.cu").read_text()
    declared = re.search(rf"void {name}\(([^)]*)\)", source)
    assert declared is not None
    types = [" ".join(part.split()[:-1]) for part in declared[1].split(",")]
    arguments = ", ".join(f"*reinterpret_cast<{kind}*>(args[{i}])" for i, kind in enumerate(types))
    waits = "__syncthreads" in source or "__shfl_sync" in source
    # What the threads of a block share must stay until all of them have left it.
    between = "blocks.arrive_and_wait();" if waits else ""
    code = _SHIM + (f"#define {define}\n" if define else "") + source
    code += _LAUNCH.format(call=f"{name}({arguments});", between=between)
    built = folder / f"{name}{define}.so"
    (folder / f"{name}{define}.cpp").write_text(code)
    command = ["g++", "-std=c++20", "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC", "-pthread"]
    subprocess.run([*command, str(folder / f"{name}{define}.cpp"), "-o", str(built)], check=True)
    library = ctypes.CDLL(str(built))

    def call(grid: tuple[int, int, int], block: tuple[int, int, int], args: list[Tensor | int]) -> None:
        values = [
            ctypes.c_void_p(arg.data_ptr()) if isinstance(arg, torch.Tensor) else ctypes.c_int(arg)
            for arg in args
        ]
        assert len(values) == len(types)
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        library.launch(*grid, *block, addresses)

    return call
