#version 450
// A chunk of an NCHW array in the staging buffer → channels-packed texels.
//
//   staging   [batches][channels][pitch]      the chunk; positions m_first … m_first + positions − 1
//   texture   texel (x, y, n·C4 + c4) = channels 4·c4 … 4·c4 + 3; lanes past C are zero
//
// One invocation a texel: x → position, y → c4, z → n.

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint batches, channels, positions, pitch;
    uint n_first, c4_first, m_first;
    uint C4, W;
} pc;

#include "invocation.glslh"
#include "staging_read.glslh"
#include "texel.glslh"

layout(set = 0, binding = 1, TEXEL_FORMAT) uniform restrict writeonly TEXEL_IMAGE3D t_out;

void main() {
    const uvec3 index = invocation_index();
    const uint c_first = index.y * 4u;
    if (index.x >= pc.positions || c_first >= pc.channels || index.z >= pc.batches) {
        return;
    }
    const uint row = index.z * pc.channels + c_first;
    const uint lanes = min(4u, pc.channels - c_first);
    vec4 texel = vec4(0.0);
    for (uint lane = 0u; lane < lanes; ++lane) {
        texel[lane] = load_element((row + lane) * pc.pitch + index.x);
    }
    const uint m = pc.m_first + index.x;
    const uint z = (pc.n_first + index.z) * pc.C4 + pc.c4_first + index.y;
    imageStore(t_out, ivec3(m % pc.W, m / pc.W, z), to_texel(texel));
}
