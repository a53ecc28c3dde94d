#version 450
// The largest element under a window of KERNEL_H × KERNEL_W taps. NaN is larger than any number; taps
// outside the input are left out, and a window of no others gives −∞.

layout(constant_id = 4) const int KERNEL_W = 3;
layout(constant_id = 5) const int KERNEL_H = 3;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint planes, M, N, N4;
    uint W_in, H_in, W_out, H_out;
    uint pitch_out, pitch_in;
    int stride_w, stride_h, pad_w, pad_h;
    int dilation_w, dilation_h;
} pc;

#include "larger.glslh"
#include "planes.glslh"
#include "plane_channels.glslh"
#include "plane_taps.glslh"

VEC load_tap(const ivec2 at) {
    if (in_input(at)) {
        return load(plane(), uvec2(at));
    }
    return VEC(uintBitsToFloat(0xff800000u));  // −∞
}

void main() {
    if (!inside()) {
        return;
    }
    ivec2 first[LANES];
    for (uint lane = 0u; lane < LANES; ++lane) {
        first[lane] = ivec2(position(lane)) * ivec2(pc.stride_w, pc.stride_h) -
                      ivec2(pc.pad_w, pc.pad_h);
    }
    vec4 largest = vec4(uintBitsToFloat(0xff800000u));
    for (int dy = 0; dy < KERNEL_H; ++dy) {
        for (int dx = 0; dx < KERNEL_W; ++dx) {
            const ivec2 tap = ivec2(dx, dy) * ivec2(pc.dilation_w, pc.dilation_h);
            VEC x[LANES];
            for (uint lane = 0u; lane < LANES; ++lane) {
                x[lane] = load_tap(first[lane] + tap);
            }
            largest = larger(largest, joined(x));
        }
    }
    store(zero_past_N(largest));
}
