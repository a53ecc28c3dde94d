#version 450
// The mean over all positions, of each channel: [N, C, H, W] → [N, C, 1, 1].
//
// One workgroup a texel of the output; its invocations share the positions.

#extension GL_EXT_samplerless_texture_functions : require

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint M, W;
} pc;

#include "texel.glslh"
#include "workgroup_sum.glslh"

layout(set = 0, binding = 0, TEXEL_FORMAT) uniform restrict writeonly TEXEL_IMAGE3D t_out;
layout(set = 0, binding = 1) uniform texture3D t_in;

vec4 load(const uint i) {
    return texelFetch(t_in, ivec3(i % pc.W, i / pc.W, gl_WorkGroupID.y + pc.origin_y), 0);
}

#include "strided_sum.glslh"

void main() {
    const vec4 total = workgroup_sum(strided_sum(pc.M));
    if (gl_LocalInvocationID.x == 0u) {
        imageStore(t_out, ivec3(0, 0, gl_WorkGroupID.y + pc.origin_y), to_texel(total / float(pc.M)));
    }
}
