#version 450
// Sum, mean, largest, smallest or Euclidean norm over some of C, H and W, in fp32.
//
// An output is of the row-major order that x has with the axes of length 1, whatever its own shape.

layout(constant_id = 4) const uint FUNCTION = 0;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint planes, M, N, N4;
    uint C, C4, W_in, W_out, H_out;
    uint pitch_out, pitch_in;
    uint kept_c, kept_h, kept_w;
    uint count_c, count_h, count_w;
} pc;

// src/pwconv/ops/reduce.py has the same numbers.
const uint FUNCTION_SUM = 0;
const uint FUNCTION_MEAN = 1;
const uint FUNCTION_MAX = 2;
const uint FUNCTION_MIN = 3;
const uint FUNCTION_L2 = 4;

#include "larger.glslh"
#include "planes.glslh"
#include "plane_elements.glslh"

#ifdef TEXTURE3D
layout(set = 0, binding = 1) uniform texture3D t_in;

float load_at(const uint n, const uint c, const uvec2 at) {
    return texelFetch(t_in, ivec3(at, n * pc.C4 + c / 4u), 0)[c % 4u];
}
#else
#include "element_read.glslh"

float load_at(const uint n, const uint c, const uvec2 at) {
    return load_element((n * pc.C + c) * pc.pitch_in + at.y * pc.W_in + at.x);
}
#endif

// Sums are Kahan's: what an addition rounds off, over, is added to the next.
float combined(const float a, const float x, inout float over) {
    if (FUNCTION == FUNCTION_MAX) {
        return larger(vec4(a), vec4(x)).x;
    }
    if (FUNCTION == FUNCTION_MIN) {
        return -larger(vec4(-a), vec4(-x)).x;
    }
    precise float term = (FUNCTION == FUNCTION_L2 ? x * x : x) - over;
    precise float sum = a + term;
    precise float rounded = sum - a - term;
    // Nothing is left over of an infinity; of itself it would be NaN.
    over = (floatBitsToUint(sum) & 0x7f800000u) == 0x7f800000u ? 0.0 : rounded;
    return sum;
}

float finished(const float a) {
    if (FUNCTION == FUNCTION_MEAN) {
        return a / float(pc.count_c * pc.count_h * pc.count_w);
    }
    return FUNCTION == FUNCTION_L2 ? sqrt(a) : a;
}

float reduced(const uint number) {
    const uint w = number % pc.kept_w, h = number / pc.kept_w % pc.kept_h;
    const uint row = number / pc.kept_w / pc.kept_h;
    const uint c = row % pc.kept_c, n = row / pc.kept_c;
    float a = 0.0;
    float over = 0.0;
    if (FUNCTION == FUNCTION_MAX) {
        a = uintBitsToFloat(0xff800000u);  // −∞
    }
    if (FUNCTION == FUNCTION_MIN) {
        a = uintBitsToFloat(0x7f800000u);
    }
    // An axis is kept or reduced: its coordinate here is 0, or else its count is 1.
    for (uint i = 0u; i < pc.count_c; ++i) {
        for (uint y = 0u; y < pc.count_h; ++y) {
            for (uint x = 0u; x < pc.count_w; ++x) {
                a = combined(a, load_at(n, c + i, uvec2(w + x, h + y)), over);
            }
        }
    }
    return finished(a);
}

void main() {
    if (!inside()) {
        return;
    }
    vec4 values = vec4(0.0);
    for (uint lane = 0u; lane < 4u; ++lane) {
        if (is_element(lane)) {
            values[lane] = reduced(element_number(lane));
        }
    }
    store(values);
}
