#version 450
// The mean of each row: [N, C, H, W] → [N, C, 1, 1].
//
// One workgroup a row; its invocations share the positions, four at a time.

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint M, pitch_in, pitch_out;
} pc;

#include "texel.glslh"
#include "workgroup_sum.glslh"

layout(set = 0, binding = 0) restrict writeonly buffer Output {
    PACKED_VEC4 t_out[];
};
layout(set = 0, binding = 1) restrict readonly buffer Input {
    PACKED_VEC4 t_in[];
};

vec4 load(const uint i) {
    const uint row = gl_WorkGroupID.y + pc.origin_y;
    const vec4 values = unpack_vec4(t_in[row * (pc.pitch_in / 4u) + i]);
    // A select: what the padding holds may be NaN.
    return mix(values, vec4(0.0), greaterThanEqual(4u * i + uvec4(0, 1, 2, 3), uvec4(pc.M)));
}

#include "strided_sum.glslh"

void main() {
    const vec4 total = workgroup_sum(strided_sum((pc.M + 3u) / 4u));
    if (gl_LocalInvocationID.x == 0u) {
        const uint row = gl_WorkGroupID.y + pc.origin_y;
        const float mean = (total.x + total.y + total.z + total.w) / float(pc.M);
        t_out[row * (pc.pitch_out / 4u)] = pack_vec4(vec4(mean, 0.0, 0.0, 0.0));
    }
}
