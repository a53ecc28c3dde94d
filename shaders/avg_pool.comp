#version 450
// The mean under a window of KERNEL_H × KERNEL_W taps, summed in fp32. Taps outside the input are 0; what
// a sum is divided by counts the taps in the input or, with COUNT_PADDING, in the input and its padding.

layout(constant_id = 4) const int KERNEL_W = 3;
layout(constant_id = 5) const int KERNEL_H = 3;
layout(constant_id = 6) const int DILATION_W = 1;
layout(constant_id = 7) const int DILATION_H = 1;
layout(constant_id = 8) const bool COUNT_PADDING = false;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint planes, M, N, N4;
    uint W_in, H_in, W_out, H_out;
    uint pitch_out, pitch_in;
    int stride_w, stride_h, pad_w, pad_h;
    int end_w, end_h;  // the first positions past the padding
} pc;

#include "planes.glslh"
#include "plane_channels.glslh"
#include "plane_taps.glslh"

bool is_counted(const ivec2 at) {
    // A last window may pass the padding's end; none begins before it.
    return COUNT_PADDING ? all(lessThan(at, ivec2(pc.end_w, pc.end_h))) : in_input(at);
}

VEC mean(const ivec2 first) {
    VEC sum = VEC(0.0);
    uint count = 0u;
    for (int dy = 0; dy < KERNEL_H; ++dy) {
        for (int dx = 0; dx < KERNEL_W; ++dx) {
            const ivec2 at = first + ivec2(dx * DILATION_W, dy * DILATION_H);
            count += uint(is_counted(at));
            if (in_input(at)) {
                sum += load(plane(), uvec2(at));
            }
        }
    }
    return sum / float(max(count, 1u));  // A dilated window may be over padding alone.
}

void main() {
    if (!inside()) {
        return;
    }
    VEC means[LANES];
    for (uint lane = 0u; lane < LANES; ++lane) {
        const ivec2 out_at = ivec2(position(lane));
        means[lane] = mean(out_at * ivec2(pc.stride_w, pc.stride_h) - ivec2(pc.pad_w, pc.pad_h));
    }
    store(zero_past_N(joined(means)));
}
