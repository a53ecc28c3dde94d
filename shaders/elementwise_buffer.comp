#version 450
// act(a), act(a + b) or act(a · b), element by element, in fp32, between tensors stored as rows. b may
// be [N, C, 1, 1]: a row of one element for each of a's.
//
// x → four elements of a row, y → row.

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint rows, pitch, pitch_b;
    float activation_a, activation_b;
} pc;

#include "activation.glslh"
#include "elementwise.glslh"
#include "invocation.glslh"
#include "texel.glslh"

layout(set = 0, binding = 0) restrict writeonly buffer Output {
    PACKED_VEC4 t_out[];
};
layout(set = 0, binding = 1) restrict readonly buffer A {
    PACKED_VEC4 t_a[];
};
layout(set = 0, binding = 2) restrict readonly buffer B {
    PACKED_VEC4 t_b[];
};

void main() {
    const uvec3 index = invocation_index();
    if (4u * index.x >= pc.pitch || index.y >= pc.rows) {
        return;
    }
    const uint at = index.y * (pc.pitch / 4u) + index.x;
    vec4 b;
    if (BROADCAST) {
        b = vec4(unpack_vec4(t_b[index.y * (pc.pitch_b / 4u)]).x);
    } else {
        b = unpack_vec4(t_b[at]);
    }
    t_out[at] = pack_vec4(combine(unpack_vec4(t_a[at]), b));
}
