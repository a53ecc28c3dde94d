#version 450
// act(a) or act(f(a, b)), element by element, in fp32, f by OPERATION. Either operand may have length 1
// along axes of the output: it is spread over them.

// src/pwconv/ops/elementwise.py has the same numbers.
layout(constant_id = 4) const uint OPERATION = 0;
// The axes over which a and b are spread, as bits.
layout(constant_id = 5) const uint SPREAD_A = 0;
layout(constant_id = 6) const uint SPREAD_B = 0;

const uint OPERATION_FIRST = 0;
const uint OPERATION_ADD = 1;
const uint OPERATION_MULTIPLY = 2;
const uint OPERATION_SUBTRACT = 3;
const uint OPERATION_DIVIDE = 4;
const uint OPERATION_MINIMUM = 5;
const uint OPERATION_MAXIMUM = 6;
const uint OPERATION_PRELU = 7;

const uint SPREAD_N = 8;
const uint SPREAD_C = 4;
const uint SPREAD_H = 2;
const uint SPREAD_W = 1;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint planes, M, N, N4;
    uint W_out, H_out;
    uint pitch_out;
    float activation_a, activation_b;
} pc;

#include "activation.glslh"
#include "larger.glslh"
#include "planes.glslh"
#include "plane_channels.glslh"

// The operand's plane, of which a sample has so many where it is not spread over C.
uint spread_plane(const uint spread, const uint of_sample) {
    if ((spread & (SPREAD_N | SPREAD_C)) == 0u) {
        return plane();
    }
    const uint n = (spread & SPREAD_N) != 0u ? 0u : plane() / of_sample;
    return (spread & SPREAD_C) != 0u ? n : n * of_sample + plane() % of_sample;
}

uvec2 spread_position(const uint spread, const uvec2 at) {
    return uvec2((spread & SPREAD_W) != 0u ? 0u : at.x, (spread & SPREAD_H) != 0u ? 0u : at.y);
}

#ifdef TEXTURE3D
layout(set = 0, binding = 1) uniform texture3D t_a;
layout(set = 0, binding = 2) uniform texture3D t_b;

#define DEFINE_LOAD(NAME, OPERAND, SPREAD)                                                  \
    vec4 NAME() {                                                                           \
        const uvec2 at = spread_position(SPREAD, position(0u));                             \
        const vec4 x = texelFetch(OPERAND, ivec3(at, spread_plane(SPREAD, pc.N4)), 0);      \
        return (SPREAD & SPREAD_C) != 0u ? vec4(x.x) : x;                                   \
    }
#else
// PACKED_VEC4s of a row of one position, which is padded to 16 bytes.
#ifdef STORE_FP16
#define ROW_OF_ONE 2u
#else
#define ROW_OF_ONE 1u
#endif

layout(set = 0, binding = 1) restrict readonly buffer A {
    PACKED_VEC4 t_a[];
};
layout(set = 0, binding = 2) restrict readonly buffer B {
    PACKED_VEC4 t_b[];
};

// PACKED_VEC4s from one of an operand's rows to the next.
uint spread_pitch(const uint spread) {
    if ((spread & (SPREAD_H | SPREAD_W)) == 0u) {
        return pc.pitch_out / 4u;
    }
    const uint w = (spread & SPREAD_W) != 0u ? 1u : pc.W_out;
    const uint h = (spread & SPREAD_H) != 0u ? 1u : pc.H_out;
    return (w * h + 4u * ROW_OF_ONE - 1u) / (4u * ROW_OF_ONE) * ROW_OF_ONE;
}

uint spread_element(const uint spread, const uint lane) {
    const uvec2 at = spread_position(spread, position(lane));
    return at.y * ((spread & SPREAD_W) != 0u ? 1u : pc.W_out) + at.x;
}

#define DEFINE_LOAD(NAME, OPERAND, SPREAD)                                                  \
    vec4 NAME() {                                                                           \
        const uint row = spread_plane(SPREAD, pc.N) * spread_pitch(SPREAD);                 \
        if ((SPREAD & (SPREAD_H | SPREAD_W)) == 0u) {                                       \
            return unpack_vec4(OPERAND[row + invocation_index().x]);                        \
        }                                                                                   \
        if ((SPREAD & (SPREAD_H | SPREAD_W)) == (SPREAD_H | SPREAD_W)) {                    \
            return vec4(unpack_vec4(OPERAND[row]).x);                                       \
        }                                                                                   \
        vec4 x;                                                                             \
        for (uint lane = 0u; lane < 4u; ++lane) {                                           \
            const uint i = spread_element(SPREAD, lane);                                    \
            x[lane] = unpack_vec4(OPERAND[row + i / 4u])[i % 4u];                           \
        }                                                                                   \
        return x;                                                                           \
    }
#endif

DEFINE_LOAD(load_a, t_a, SPREAD_A)
DEFINE_LOAD(load_b, t_b, SPREAD_B)

vec4 combined() {
    const vec4 a = load_a();
    switch (OPERATION) {
        case OPERATION_ADD:
            return a + load_b();
        case OPERATION_MULTIPLY:
            return a * load_b();
        case OPERATION_SUBTRACT:
            return a - load_b();
        case OPERATION_DIVIDE:
            return a / load_b();
        case OPERATION_MINIMUM:
            return -larger(-a, -load_b());
        case OPERATION_MAXIMUM:
            return larger(a, load_b());
        case OPERATION_PRELU:
            return mix(a, a * load_b(), lessThan(a, vec4(0.0)));
    }
    return a;
}

void main() {
    if (inside()) {
        store(zero_past_N(activate(combined(), pc.activation_a, pc.activation_b)));
    }
}
