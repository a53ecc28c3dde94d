#version 450
// Depthwise convolution: each channel by a kernel of its own, KERNEL_H × KERNEL_W, in fp32.
//
//   weight   [N4][KERNEL_H·KERNEL_W] vec4s of fp32: a tap of four channels

layout(constant_id = 4) const int KERNEL_W = 3;
layout(constant_id = 5) const int KERNEL_H = 3;
layout(constant_id = 6) const int DILATION_W = 1;
layout(constant_id = 7) const int DILATION_H = 1;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint planes, M, N, N4;
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

// The channel's first tap. A vec4 is LANES VECs, so as many are from one tap to the next.
uint first_tap() {
    const uint c = channel();
    return c / LANES * uint(KERNEL_H * KERNEL_W) * LANES + c % LANES;
}

VEC convolve(const uvec2 out_at) {
    const ivec2 first =
        ivec2(out_at) * ivec2(pc.stride_w, pc.stride_h) - ivec2(pc.pad_w, pc.pad_h);
    uint tap = first_tap();
    VEC sum = VEC(0.0);
    for (int dy = 0; dy < KERNEL_H; ++dy) {
        for (int dx = 0; dx < KERNEL_W; ++dx) {
            const ivec2 at = first + ivec2(dx * DILATION_W, dy * DILATION_H);
            // Padding is zeros, not taps that are left out: times an infinite weight they are NaN.
            VEC x = VEC(0.0);
            if (in_input(at)) {
                x = load(plane(), uvec2(at));
            }
            sum = fma(x, weight[tap], sum);
            tap += LANES;
        }
    }
    return sum;
}

void main() {
    if (!inside()) {
        return;
    }
    VEC sums[LANES];
    for (uint lane = 0u; lane < LANES; ++lane) {
        sums[lane] = convolve(position(lane));
    }
    const uint each = pc.N4 * LANES, c = channel();
    const vec4 normed = (joined(sums) + bias[c]) * bias[each + c] + bias[2u * each + c];
    const vec4 y = activate(normed, pc.activation_a, pc.activation_b);
    store(zero_past_N(y));
}
