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

void main() {
    const uint z = gl_WorkGroupID.y + pc.origin_y;
    vec4 sum = vec4(0.0);
    for (uint m = gl_LocalInvocationID.x; m < pc.M; m += THREADS) {
        sum += texelFetch(t_in, ivec3(m % pc.W, m / pc.W, z), 0);
    }
    const vec4 total = workgroup_sum(sum);
    if (gl_LocalInvocationID.x == 0u) {
        imageStore(t_out, ivec3(0, 0, z), to_texel(total / float(pc.M)));
    }
}
