#version 450
// Channels of up to four textures, one after the other, to a run of texels of another: concatenation and
// slices. A texel of the output holds channels of four inputs at most.
//
// Channel c of the output is channel c + shift_i of input i, the last one with begin_i ≤ c. (shift wraps
// around: c + shift is computed modulo 2³².)
//
// x, y → position, z → texel of the run, for each sample.

#extension GL_EXT_samplerless_texture_functions : require

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint batches, N, N4, W_out, H_out;
    uint n4_first, count;
    uint begin_1, begin_2, begin_3;
    uint shift_0, shift_1, shift_2, shift_3;
    uint C4_0, C4_1, C4_2, C4_3;
} pc;

#include "invocation.glslh"
#include "texel.glslh"

layout(set = 0, binding = 0, TEXEL_FORMAT) uniform restrict writeonly TEXEL_IMAGE3D t_out;
layout(set = 0, binding = 1) uniform texture3D t_0;
layout(set = 0, binding = 2) uniform texture3D t_1;
layout(set = 0, binding = 3) uniform texture3D t_2;
layout(set = 0, binding = 4) uniform texture3D t_3;

float load_channel(const ivec2 position, const uint b, const uint c) {
    if (c >= pc.begin_3) {
        const uint at = c + pc.shift_3;
        return texelFetch(t_3, ivec3(position, b * pc.C4_3 + at / 4u), 0)[at % 4u];
    }
    if (c >= pc.begin_2) {
        const uint at = c + pc.shift_2;
        return texelFetch(t_2, ivec3(position, b * pc.C4_2 + at / 4u), 0)[at % 4u];
    }
    if (c >= pc.begin_1) {
        const uint at = c + pc.shift_1;
        return texelFetch(t_1, ivec3(position, b * pc.C4_1 + at / 4u), 0)[at % 4u];
    }
    const uint at = c + pc.shift_0;
    return texelFetch(t_0, ivec3(position, b * pc.C4_0 + at / 4u), 0)[at % 4u];
}

void main() {
    const uvec3 index = invocation_index();
    if (index.x >= pc.W_out || index.y >= pc.H_out || index.z >= pc.count * pc.batches) {
        return;
    }
    const ivec2 position = ivec2(index.xy);
    const uint b = index.z / pc.count;
    const uint n4 = pc.n4_first + index.z % pc.count;
    vec4 texel = vec4(0.0);
    for (uint lane = 0u; lane < 4u; ++lane) {
        if (4u * n4 + lane < pc.N) {
            texel[lane] = load_channel(position, b, 4u * n4 + lane);
        }
    }
    imageStore(t_out, ivec3(position, b * pc.N4 + n4), to_texel(texel));
}
