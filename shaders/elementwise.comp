#version 450
// act(a), act(a + b) or act(a · b), element by element, in fp32. b may be [N, C, 1, 1].

// src/pwconv/ops/elementwise.py has the same numbers.
layout(constant_id = 4) const uint OPERATION = 0;
// True where b has one element a channel.
layout(constant_id = 5) const bool BROADCAST = false;

const uint OPERATION_FIRST = 0;
const uint OPERATION_ADD = 1;
const uint OPERATION_MULTIPLY = 2;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint planes, M, N, N4;
    uint W_out, H_out;
    uint pitch_out;
    float activation_a, activation_b;
} pc;

#include "activation.glslh"
#include "planes.glslh"
#include "plane_channels.glslh"

#ifdef TEXTURE3D
layout(set = 0, binding = 1) uniform texture3D t_a;
layout(set = 0, binding = 2) uniform texture3D t_b;

vec4 load_a() {
    return texelFetch(t_a, ivec3(invocation_index()), 0);
}

vec4 load_b() {
    return texelFetch(t_b, ivec3(BROADCAST ? uvec2(0u) : position(0u), plane()), 0);
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

// The invocation's four positions of a row of the output's length.
uint own_vector() {
    return plane() * (pc.pitch_out / 4u) + invocation_index().x;
}

vec4 load_a() {
    return unpack_vec4(t_a[own_vector()]);
}

vec4 load_b() {
    if (BROADCAST) {
        return vec4(unpack_vec4(t_b[plane() * ROW_OF_ONE]).x);
    }
    return unpack_vec4(t_b[own_vector()]);
}
#endif

vec4 combined() {
    const vec4 a = load_a();
    if (OPERATION == OPERATION_ADD) {
        return a + load_b();
    }
    if (OPERATION == OPERATION_MULTIPLY) {
        return a * load_b();
    }
    return a;
}

void main() {
    if (inside()) {
        store(zero_past_N(activate(combined(), pc.activation_a, pc.activation_b)));
    }
}
