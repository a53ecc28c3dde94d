#version 450
// Convolution in groups: EACH_OUT channels of the output are of EACH_IN channels of the input, in fp32.
// TRANSPOSED, an element of the input lies under the taps that it is given to: a tap of the output reads
// where its distance is a whole number of strides.
//
//   weight   [C_out][KERNEL_H·KERNEL_W][EACH_IN] of fp32

layout(constant_id = 4) const int KERNEL_W = 3;
layout(constant_id = 5) const int KERNEL_H = 3;
layout(constant_id = 6) const int DILATION_W = 1;
layout(constant_id = 7) const int DILATION_H = 1;
layout(constant_id = 8) const bool TRANSPOSED = false;
layout(constant_id = 9) const uint EACH_IN = 1;
layout(constant_id = 10) const uint EACH_OUT = 1;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint planes, M, N, N4, C, C4;
    uint W_in, H_in, W_out, H_out;
    uint pitch_out, pitch_in;
    int stride_w, stride_h, pad_w, pad_h;
    float activation_a, activation_b;
} pc;

#include "activation.glslh"
#include "planes.glslh"
#include "plane_channels.glslh"
#include "plane_taps.glslh"

layout(set = 0, binding = 2) restrict readonly buffer Weight {
    float weight[];
};
layout(set = 0, binding = 3) restrict readonly buffer Bias {
    VEC bias[];
};

float load_channel(const uint n, const uint c, const uvec2 at) {
#ifdef TEXTURE3D
    return load(n * pc.C4 + c / 4u, at)[c % 4u];
#else
    return load(n * pc.C + c, at);
#endif
}

// Where a tap reads the input; outside where it reads none.
ivec2 tap_position(const ivec2 out_at, const ivec2 tap) {
    const ivec2 stride = ivec2(pc.stride_w, pc.stride_h), pad = ivec2(pc.pad_w, pc.pad_h);
    if (!TRANSPOSED) {
        return out_at * stride - pad + tap;
    }
    const ivec2 distance = out_at + pad - tap;
    const bool whole = all(greaterThanEqual(distance, ivec2(0))) &&
                       all(equal(distance % max(stride, ivec2(1)), ivec2(0)));
    return whole ? distance / stride : ivec2(-1);
}

float convolve(const uint n, const uint channel_out, const ivec2 out_at) {
    const uint c_first = channel_out / EACH_OUT * EACH_IN;
    uint i = channel_out * uint(KERNEL_H * KERNEL_W) * EACH_IN;
    float sum = 0.0;
    for (int dy = 0; dy < KERNEL_H; ++dy) {
        for (int dx = 0; dx < KERNEL_W; ++dx) {
            const ivec2 at = tap_position(out_at, ivec2(dx * DILATION_W, dy * DILATION_H));
            const bool is_read = in_input(at);
            for (uint c = 0u; c < EACH_IN; ++c) {
                // Padding is zeros, not taps that are left out: times an infinite weight they are NaN.
                const float x = is_read ? load_channel(n, c_first + c, uvec2(at)) : 0.0;
                if (is_read || !TRANSPOSED) {
                    sum = fma(x, weight[i + c], sum);
                }
            }
            i += EACH_IN;
        }
    }
    return sum;
}

void main() {
    if (!inside()) {
        return;
    }
    vec4 sums;
    for (uint lane = 0u; lane < 4u; ++lane) {
#ifdef TEXTURE3D
        const uint n = plane() / pc.N4;
        const uint channel_out = min(4u * channel() + lane, pc.N - 1u);
#else
        const uint n = plane() / pc.N;
        const uint channel_out = channel();
#endif
        sums[lane] = convolve(n, channel_out, ivec2(position(lane)));
    }
    const vec4 y = activate(sums + bias[channel()], pc.activation_a, pc.activation_b);
    store(zero_past_N(y));
}
