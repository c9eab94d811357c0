// Which boxes of a list overlap by more than a threshold: torchvision's nms_cuda.cu, without its shift of boxes by class.
// One bit a pair (row, column), column > row, 64 columns a word. Every operation rounds alone, as on a CPU.
// threshold: the bits of a float. Grid: words, blocks of 64 rows, lists; 64 threads.

__device__ inline float area_of(float4 box) {
    return __fmul_rn(__fsub_rn(box.z, box.x), __fsub_rn(box.w, box.y));
}

extern "C" __global__ void overlaps(
    const float4* boxes, const long long* groups, unsigned long long* over, int count, int threshold
) {
    const int words = gridDim.x, word = blockIdx.x, t = threadIdx.x;
    if (word < blockIdx.y) return;
    const long long list = (long long)blockIdx.z * count;
    __shared__ float4 others[64];
    __shared__ long long other_groups[64];
    const int column = word * 64 + t;
    if (column < count) {
        others[t] = boxes[list + column];
        other_groups[t] = groups[list + column];
    }
    __syncthreads();
    const int row = blockIdx.y * 64 + t;
    if (row >= count) return;
    const float4 box = boxes[list + row];
    const long long group = groups[list + row];
    const float area = area_of(box), limit = __int_as_float(threshold);
    unsigned long long bits = 0;
    const int end = min(64, count - word * 64);
    for (int c = word == blockIdx.y ? t + 1 : 0; c < end; ++c) {
        const float4 other = others[c];
        const float width = fmaxf(__fsub_rn(fminf(box.z, other.z), fmaxf(box.x, other.x)), 0.0f);
        const float height = fmaxf(__fsub_rn(fminf(box.w, other.w), fmaxf(box.y, other.y)), 0.0f);
        const float common = __fmul_rn(width, height);
        const float whole = __fsub_rn(__fadd_rn(area, area_of(other)), common);
        if (__fdiv_rn(common, whole) > limit && group == other_groups[c]) bits |= 1ull << c;
    }
    over[(list + row) * words + word] = bits;
}
