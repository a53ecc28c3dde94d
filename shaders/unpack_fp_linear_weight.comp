#version 450
// A packed weight → rows of halves, [rows][pitch]: what tensor layouts can address. Past N and K they
// are zero. One invocation a 32-bit word: x → word of a row, y → output channel.

#extension GL_EXT_samplerless_texture_functions : require

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint N, K, N4, K4;
    uint rows, pitch;
} pc;

#define FP_VEC4 vec4
#define WEIGHT_BINDING 1
#include "texel.glslh"
#include "invocation.glslh"
#include "packed_weight.glslh"

layout(set = 0, binding = 0) restrict writeonly buffer Rows {
    uint weight_rows[];
};

float load_weight(const uint n, const uint k) {
    return n < pc.N && k < pc.K ? load_packed(n / 4u * 4u + k % 4u, k / 4u)[n % 4u] : 0.0;
}

void main() {
    const uvec3 index = invocation_index();
    if (index.x * 2u >= pc.pitch || index.y >= pc.rows) {
        return;
    }
    weight_rows[(index.y * pc.pitch) / 2u + index.x] = half_bits(
        vec2(load_weight(index.y, index.x * 2u), load_weight(index.y, index.x * 2u + 1u)));
}
