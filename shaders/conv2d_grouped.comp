#version 450
// Convolution in groups: EACH_OUT channels of the output are of EACH_IN channels of the input, in fp32.
// TRANSPOSED, an element of the input lies under the taps that it is given to: a tap of the output reads
// where its distance is a whole number of strides.
//
//   weight   [N4][KERNEL_H·KERNEL_W][EACH_IN] vec4s of fp32: of four channels of the output

#extension GL_EXT_control_flow_attributes : require

layout(constant_id = 4) const int KERNEL_W = 3;
layout(constant_id = 5) const int KERNEL_H = 3;
layout(constant_id = 6) const int DILATION_W = 1;
layout(constant_id = 7) const int DILATION_H = 1;
layout(constant_id = 8) const bool TRANSPOSED = false;
layout(constant_id = 9) const uint EACH_IN = 1;
layout(constant_id = 10) const uint EACH_OUT = 1;

// Products are summed in runs of so many at most, and the runs' sums then: a single sum of 4,096 is off
// by 3 times as much (root of the mean square; llvmpipe, 2026-11-28).
const uint RUN = 128;

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
    VEC weight[];
};
layout(set = 0, binding = 3) restrict readonly buffer Bias {
    VEC bias[];  // then as many scales of a norm, and as many shifts
};

#ifdef TEXTURE3D
#define CHANNELS uvec4

// The first input channel of each output channel's group. Lanes past N are the last channel's.
uvec4 first_inputs() {
    return min(4u * channel() + uvec4(0, 1, 2, 3), uvec4(pc.N - 1u)) / EACH_OUT * EACH_IN;
}

vec4 load_channels(const uvec4 c, const uvec2 at) {
    const uint first = plane() / pc.N4 * pc.C4;
    if (c.x == c.w) {  // one group
        return vec4(load(first + c.x / 4u, at)[c.x % 4u]);
    }
    vec4 x;
    [[unroll]] for (uint lane = 0u; lane < 4u; ++lane) {
        x[lane] = load(first + c[lane] / 4u, at)[c[lane] % 4u];
    }
    return x;
}
#else
#define CHANNELS uint

uint first_inputs() {
    return channel() / EACH_OUT * EACH_IN;
}

float load_channels(const uint c, const uvec2 at) {
    return load(plane() / pc.N * pc.C + c, at);
}
#endif

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

void main() {
    if (!inside()) {
        return;
    }
    const CHANNELS first = first_inputs();
    // A vec4 is LANES VECs, so as many are from one weight to the next.
    uint i = channel() / LANES * uint(KERNEL_H * KERNEL_W) * EACH_IN * LANES + channel() % LANES;
    VEC sums[LANES], run[LANES];
    [[unroll]] for (uint lane = 0u; lane < LANES; ++lane) {
        sums[lane] = VEC(0.0);
        run[lane] = VEC(0.0);
    }
    uint summed = 0u;
    // One nest of loops for all lanes: Mesa's llvmpipe ends loops by their trips, all taken together.
    for (int dy = 0; dy < KERNEL_H; ++dy) {
        for (int dx = 0; dx < KERNEL_W; ++dx) {
            ivec2 at[LANES];
            [[unroll]] for (uint lane = 0u; lane < LANES; ++lane) {
                const ivec2 tap = ivec2(dx * DILATION_W, dy * DILATION_H);
                at[lane] = tap_position(ivec2(position(lane)), tap);
            }
            for (uint begin = 0u; begin < EACH_IN; begin += RUN) {
                const uint end = min(begin + RUN, EACH_IN);
                for (uint c = begin; c < end; ++c) {
                    [[unroll]] for (uint lane = 0u; lane < LANES; ++lane) {
                        const bool is_read = in_input(at[lane]);
                        // Padding is zeros, not taps that are left out: times an infinite weight they
                        // are NaN.
                        VEC x = VEC(0.0);
                        if (is_read) {
                            x = load_channels(first + c, uvec2(at[lane]));
                        }
                        if (is_read || !TRANSPOSED) {
                            run[lane] = fma(x, weight[i], run[lane]);
                        }
                    }
                    i += LANES;
                }
                summed += end - begin;
                if (summed + min(EACH_IN, RUN) > RUN) {
                    [[unroll]] for (uint lane = 0u; lane < LANES; ++lane) {
                        sums[lane] += run[lane];
                        run[lane] = VEC(0.0);
                    }
                    summed = 0u;
                }
            }
        }
    }
    [[unroll]] for (uint lane = 0u; lane < LANES; ++lane) {
        sums[lane] += run[lane];
    }
    const uint each = pc.N4 * LANES, c = channel();
    const vec4 normed = (joined(sums) + bias[c]) * bias[each + c] + bias[2u * each + c];
    const vec4 y = activate(normed, pc.activation_a, pc.activation_b);
    store(zero_past_N(y));
}
