#version 450
// exp(x − m) / Σ exp(x − m) over lines along an axis of [N, C, H, W], m the largest of the line, in fp32.
// A line with a NaN or +∞, or of −∞ alone, gives NaN.
//
// An invocation goes over the lines of its own four values, twice. Along the channels of a texture a
// step is a texel, four elements of one line; else it is an element of each of four lines.

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint planes, M, N, N4;
    uint W_in, W_out, H_out;
    uint pitch_out, pitch_in;
    uint axis, steps;
} pc;

#include "larger.glslh"
#include "planes.glslh"
#include "plane_channels.glslh"
#include "plane_read.glslh"

const uint AXIS_C = 1;
const uint AXIS_H = 2;
const uint AXIS_W = 3;

vec4 load_own() {
    VEC values[LANES];
    for (uint lane = 0u; lane < LANES; ++lane) {
        values[lane] = load(plane(), position(lane));
    }
    return joined(values);
}

vec4 load_step(const uint i) {
    const uint from = pc.axis == AXIS_C ? plane() - channel() + i : plane();
    VEC values[LANES];
    for (uint lane = 0u; lane < LANES; ++lane) {
        uvec2 at = position(lane);
        at.x = pc.axis == AXIS_W ? i : at.x;
        at.y = pc.axis == AXIS_H ? i : at.y;
        values[lane] = load(from, at);
    }
    return joined(values);
}

#ifdef TEXTURE3D
bvec4 past_line(const uint i) {
    const uint end = pc.axis == AXIS_C ? pc.N : 4u * pc.steps;
    return greaterThanEqual(4u * i + uvec4(0, 1, 2, 3), uvec4(end));
}

bool lanes_share_a_line() {
    return pc.axis == AXIS_C;
}
#else
bvec4 past_line(const uint i) {
    return bvec4(false);
}

bool lanes_share_a_line() {
    return false;
}
#endif

void main() {
    if (!inside()) {
        return;
    }
    const vec4 least = vec4(uintBitsToFloat(0xff800000u));  // −∞
    vec4 largest = least;
    for (uint i = 0u; i < pc.steps; ++i) {
        largest = larger(largest, mix(load_step(i), least, past_line(i)));
    }
    if (lanes_share_a_line()) {
        largest = larger(largest, largest.zwxy);
        largest = larger(largest, largest.yxwz);
    }
    // Kahan's sum: what an addition rounds off is added to the next. All shares of a line have the
    // error of their sum, which of 1,000 elements was 8 times that of ONNX Runtime's.
    vec4 total = vec4(0.0);
    vec4 over = vec4(0.0);
    for (uint i = 0u; i < pc.steps; ++i) {
        precise vec4 term = mix(exp(load_step(i) - largest), vec4(0.0), past_line(i)) - over;
        precise vec4 sum = total + term;
        precise vec4 rounded = sum - total - term;
        over = rounded;
        total = sum;
    }
    if (lanes_share_a_line()) {
        total += total.zwxy;
        total += total.yxwz;
    }
    // By its bits: exp may lose NaN.
    const uvec4 exponent = floatBitsToUint(largest) & 0x7f800000u;
    const bvec4 finite = notEqual(exponent, uvec4(0x7f800000u));
    const vec4 nan = vec4(uintBitsToFloat(0x7fc00000u));
    store(zero_past_N(mix(nan, exp(load_own() - largest) / total, finite)));
}
