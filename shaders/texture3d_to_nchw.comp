#version 450
// Channels-packed texels → a chunk of an NCHW array in the staging buffer; nchw_to_texture3d.comp
// draws the two layouts.
//
// One invocation a c4 and as many positions as fill a 32-bit word: one in fp32, two in fp16, so that
// no two invocations write into one word. x → word, y → c4, z → n.

#extension GL_EXT_samplerless_texture_functions : require

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint batches, channels, positions, pitch;
    uint n_first, c4_first, m_first;
    uint C4, W;
} pc;

#include "half_bits.glslh"
#include "invocation.glslh"

layout(set = 0, binding = 0) restrict writeonly buffer Staging {
    uint staging[];
};
layout(set = 0, binding = 1) uniform texture3D t_in;

vec4 load_texel(const uint position, const uint z) {
    const uint m = pc.m_first + min(position, pc.positions - 1u);
    return texelFetch(t_in, ivec3(m % pc.W, m / pc.W, z), 0);
}

void main() {
    const uvec3 index = invocation_index();
    const uint c_first = index.y * 4u;
    const uint position = index.x * POSITIONS_PER_WORD;
    if (position >= pc.positions || c_first >= pc.channels || index.z >= pc.batches) {
        return;
    }
    const uint z = (pc.n_first + index.z) * pc.C4 + pc.c4_first + index.y;
    const vec4 texel = load_texel(position, z);
#if POSITIONS_PER_WORD == 2
    const vec4 next = load_texel(position + 1u, z);
#endif
    const uint row = index.z * pc.channels + c_first;
    const uint lanes = min(4u, pc.channels - c_first);
    for (uint lane = 0u; lane < lanes; ++lane) {
        const uint word = ((row + lane) * pc.pitch + position) / POSITIONS_PER_WORD;
#if POSITIONS_PER_WORD == 2
        staging[word] = half_bits(vec2(texel[lane], next[lane]));
#else
        staging[word] = floatBitsToUint(texel[lane]);
#endif
    }
}
