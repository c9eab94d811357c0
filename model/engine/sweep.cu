// Greedy suppression from the first box of a list to its last, given which overlap (overlaps.cu).
// A warp a list; each lane holds one word of what is suppressed, so that a list has at most 32 * 64 boxes.

#define AHEAD 16

extern "C" __global__ void sweep(
    const unsigned long long* over, const unsigned char* alive, unsigned char* keep, int count, int words
) {
    const long long list = (long long)blockIdx.x * count;
    const int lane = threadIdx.x;
    unsigned long long gone = 0;
    for (int b = 0; b < 64; ++b) {
        const int box = lane * 64 + b;
        if (box < count && !alive[list + box]) gone |= 1ull << b;
    }
    for (int first = 0; first < count; first += AHEAD) {
        unsigned long long rows[AHEAD];
        #pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            const int row = first + k;
            rows[k] = row < count && lane < words && lane >= row / 64 ? over[(list + row) * words + lane] : 0;
        }
        #pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            const int row = first + k;
            const unsigned long long word = __shfl_sync(0xffffffffu, gone, (row / 64) & 31);
            if (row < count && !(word >> (row % 64) & 1)) gone |= rows[k];
        }
    }
    for (int b = 0; b < 64; ++b) {
        const int box = lane * 64 + b;
        if (box < count) keep[list + box] = !(gone >> b & 1);
    }
}
