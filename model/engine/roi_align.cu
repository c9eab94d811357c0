// RoIAlign (Mask R-CNN, section 3) on channels-last feature maps of all pyramid levels: torchvision's roi_align_kernel.cu,
// `aligned` off, positions rounded as there, sums in float32. T: float, or the bits of a bfloat16 or float16 number.
// Grid: RoIs, rows of cells; threads: 32 lanes, columns of cells. A lane takes 16 bytes of channels at a time.

#if defined(FLOAT32)
typedef float T;
__device__ inline float wide(T value) { return value; }
__device__ inline T narrow(float value) { return value; }
#else
typedef unsigned short T;
#if defined(BFLOAT16)
__device__ inline float wide(T value) { return __uint_as_float((unsigned int)value << 16); }
__device__ inline T narrow(float value) {
    const unsigned int bits = __float_as_uint(value);
    return value != value ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
#elif defined(FLOAT16)
__device__ inline float wide(T value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value));
    return result;
}
__device__ inline T narrow(float value) {
    T result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(value));
    return result;
}
#endif
#endif

#define LANES (16 / (int)sizeof(T))

struct Sample {
    long long before, after;
    float share_before, share_after;
};

// One sample along one axis of a map of `size` cells; those more than a cell outside count as nothing.
__device__ inline Sample sample_at(float start, float cell, int cells_before, int sample, int samples, int size) {
    float position = __fadd_rn(start, __fmul_rn((float)cells_before, cell));
    position = __fadd_rn(position, __fdiv_rn(__fmul_rn(__fadd_rn((float)sample, 0.5f), cell), (float)samples));
    if (position < -1.0f || position > (float)size) return Sample{0, 0, 0.0f, 0.0f};
    position = fminf(fmaxf(position, 0.0f), (float)(size - 1));
    const int before = (int)position;
    const float share = position - (float)before;
    return Sample{before, min(before + 1, size - 1), (1.0f - share) / samples, share / samples};
}

__device__ inline void add(float* sum, const T* from, float weight) {
    const uint4 loaded = *reinterpret_cast<const uint4*>(from);
    const T* values = reinterpret_cast<const T*>(&loaded);
    #pragma unroll
    for (int i = 0; i < LANES; ++i) sum[i] += weight * wide(values[i]);
}

// maps: for each level the address of its map, its height and its width.
extern "C" __global__ void roi_align(
    const long long* maps, const float* scales, const float4* boxes, const long long* levels, const long long* images,
    T* pooled, int channels, int samples
) {
    const int roi = blockIdx.x, y = blockIdx.y, x = threadIdx.y, cells = gridDim.y;
    const long long level = levels[roi];
    const int height = (int)maps[level * 3 + 1], width = (int)maps[level * 3 + 2];
    const T* map = reinterpret_cast<const T*>(maps[level * 3]) + images[roi] * height * width * channels;
    const float4 box = boxes[roi];
    const float scale = scales[level];
    const float left = __fmul_rn(box.x, scale), top = __fmul_rn(box.y, scale);
    const float cell_x = __fdiv_rn(fmaxf(__fsub_rn(__fmul_rn(box.z, scale), left), 1.0f), (float)cells);
    const float cell_y = __fdiv_rn(fmaxf(__fsub_rn(__fmul_rn(box.w, scale), top), 1.0f), (float)cells);
    T* out = pooled + (((long long)roi * cells + y) * cells + x) * channels;
    for (int channel = threadIdx.x * LANES; channel < channels; channel += 32 * LANES) {
        float sum[LANES];
        #pragma unroll
        for (int i = 0; i < LANES; ++i) sum[i] = 0.0f;
        for (int down = 0; down < samples; ++down) {
            const Sample v = sample_at(top, cell_y, y, down, samples, height);
            for (int across = 0; across < samples; ++across) {
                const Sample h = sample_at(left, cell_x, x, across, samples, width);
                const T* from = map + channel;
                add(sum, from + (v.before * width + h.before) * channels, v.share_before * h.share_before);
                add(sum, from + (v.before * width + h.after) * channels, v.share_before * h.share_after);
                add(sum, from + (v.after * width + h.before) * channels, v.share_after * h.share_before);
                add(sum, from + (v.after * width + h.after) * channels, v.share_after * h.share_after);
            }
        }
        uint4 packed;
        T* values = reinterpret_cast<T*>(&packed);
        #pragma unroll
        for (int i = 0; i < LANES; ++i) values[i] = narrow(sum[i]);
        *reinterpret_cast<uint4*>(out + channel) = packed;
    }
}
