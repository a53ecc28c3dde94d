#version 450
// A weight matrix in the staging buffer → 4OC×4IC blocks.
//
//   staging   [batches][rows][pitch]: rows are output channels n (transposed) or input channels k
//   packed    block (k4, n4) is four vec4s; vec4 dk holds weight[4·n4 + 0…3, 4·k4 + dk]
//
//                         n4 = 0              n4 = 1
//                  dk  0   1   2   3      0   1   2   3   …     4·N4 vec4s a row
//       k4 = 0        [n0…n3 at k0] …    [n4…n7 at k0] …
//       k4 = 1        [n0…n3 at k4] …                            B·K4 rows
//
// The texture2d and the buffer hold the same vec4s in the same order. Past N and K they are zero.
// One invocation a vec4: x → 4·n4 + dk, y → k4, z → batch. A chunk starts at (n4_first, k4_first).

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint batches, n_count, k_count, pitch;
    uint b_first, n4_first, k4_first;
    uint N4, K4;
    uint transposed;
} pc;

#include "invocation.glslh"
#include "staging_read.glslh"
#include "texel.glslh"

#ifdef PACKED_TEXTURE2D
layout(set = 0, binding = 1, TEXEL_FORMAT) uniform restrict writeonly TEXEL_IMAGE2D packed_weight;
#else
layout(set = 0, binding = 1) restrict writeonly buffer Packed {
    PACKED_VEC4 packed_weight[];
};
#endif

void store_packed(const uint column, const uint row, const vec4 value) {
#ifdef PACKED_TEXTURE2D
    imageStore(packed_weight, ivec2(column, row), to_texel(value));
#else
    packed_weight[row * pc.N4 * 4u + column] = pack_vec4(value);
#endif
}

void main() {
    const uvec3 index = invocation_index();
    const uint n = index.x & ~3u;
    const uint dk = index.x & 3u;
    const uint k = index.y * 4u + dk;
    if (n >= pc.n_count || index.y * 4u >= pc.k_count || index.z >= pc.batches) {
        return;
    }
    const uint rows = pc.transposed != 0u ? pc.n_count : pc.k_count;
    vec4 value = vec4(0.0);
    if (k < pc.k_count) {
        for (uint lane = 0u; lane < min(4u, pc.n_count - n); ++lane) {
            const uvec2 at = pc.transposed != 0u ? uvec2(n + lane, k) : uvec2(k, n + lane);
            value[lane] = load_element((index.z * rows + at.x) * pc.pitch + at.y);
        }
    }
    store_packed(pc.n4_first * 4u + index.x,
                 (pc.b_first + index.z) * pc.K4 + pc.k4_first + index.y, value);
}
