// Resize along one axis by a table of taps, and NV12 to RGB. The PTX beside it is made of this text by .ci/ptx.py.
//
// A source of [lines, source, inner] pixels becomes [lines, target, inner]: along the height a line is an image and
// inner its width; along the width a line is a row and inner is 1. A pixel is three interleaved channels. Output i is
// the sum over k of weights[k, i] * pixel[starts[i] + k]. Pixels from `source` on are the border, of one level.
// A thread makes one pixel of each line that its block comes to. Compiled without fused multiply-add (--fmad=false), so
// that the float kernels round as any float32 arithmetic does; fixed point is exact.

typedef unsigned char u8;

static __device__ __forceinline__ int level(int value) { return min(max(value, 0), 255); }

template <typename Out>
static __device__ __forceinline__ void store(Out* out, int sum, int bits) {
    *out = (Out)level((sum + (1 << bits >> 1)) >> bits);
}
static __device__ __forceinline__ void store(float* out, float sum, int) { *out = sum; }
static __device__ __forceinline__ void store(u8* out, float sum, int) {
    *out = (u8)fminf(fmaxf(sum + 0.5f, 0.0f), 255.0f);
}

template <typename In, typename Out, typename Weight>
static __device__ __forceinline__ void resample(const In* __restrict__ in, Out* __restrict__ out,
                                                const int* __restrict__ starts, const Weight* __restrict__ weights,
                                                int taps, int bits, int lines, int source, int target, int inner,
                                                float level_of_border) {
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (unsigned)target * (unsigned)inner) return;
    const unsigned i = at / (unsigned)inner, j = at % (unsigned)inner;
    const int start = starts[i], count = max(min(taps, source - start), 0);
    Weight border = 0;
    for (int k = count; k < taps; ++k) border += weights[(size_t)k * target + i];
    border *= (Weight)level_of_border;
    for (int line = blockIdx.y; line < lines; line += gridDim.y) {
        const In* pixel = in + 3 * (((size_t)line * source + start) * inner + j);
        Weight red = 0, green = 0, blue = 0;
        for (int k = 0; k < count; ++k, pixel += 3 * (size_t)inner) {
            const Weight weight = weights[(size_t)k * target + i];
            red += weight * (Weight)pixel[0];
            green += weight * (Weight)pixel[1];
            blue += weight * (Weight)pixel[2];
        }
        Out* made = out + 3 * ((size_t)line * target * inner + at);
        store(made, red + border, bits);
        store(made + 1, green + border, bits);
        store(made + 2, blue + border, bits);
    }
}

#define RESAMPLE(name, In, Out, Weight)                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        name(const In* in, Out* out, const int* starts, const Weight* weights, int taps, int bits, int lines,          \
             int source, int target, int inner, float level_of_border) {                                               \
        resample(in, out, starts, weights, taps, bits, lines, source, target, inner, level_of_border);                 \
    }

RESAMPLE(fixed_u8_u8, u8, u8, int)
RESAMPLE(fixed_u8_f32, u8, float, int)
RESAMPLE(float_u8_f32, u8, float, float)
RESAMPLE(float_f32_f32, float, float, float)
RESAMPLE(float_f32_u8, float, u8, float)

// Images of NV12, [lines, height * 3 / 2, width]: luma, then chroma of every 2 x 2 block, which the four pixels of the
// block share. Factors have 16 fractional bits.
extern "C" __global__ void __launch_bounds__(256)
    nv12_rgb(const u8* in, u8* out, int lines, int height, int width, int black, int luma, int red_v, int green_u,
             int green_v, int blue_u) {
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned pixels = (unsigned)height * (unsigned)width;
    if (at >= pixels) return;
    const unsigned y = at / (unsigned)width, x = at % (unsigned)width;
    for (int line = blockIdx.y; line < lines; line += gridDim.y) {
        const u8* image = in + (size_t)line * (pixels + pixels / 2);
        const u8* chroma = image + pixels + (size_t)(y / 2) * width + (x & ~1u);
        const int grey = luma * (image[at] - black) + (1 << 15), u = chroma[0] - 128, v = chroma[1] - 128;
        u8* made = out + 3 * ((size_t)line * pixels + at);
        made[0] = (u8)level((grey + red_v * v) >> 16);
        made[1] = (u8)level((grey + green_u * u + green_v * v) >> 16);
        made[2] = (u8)level((grey + blue_u * u) >> 16);
    }
}
