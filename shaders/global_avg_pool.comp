#version 450
// The mean of each channel over all positions: [N, C, H, W] → [N, C, 1, 1].
//
// One workgroup a plane (planes.glslh says what that is): its invocations share the plane's vec4s,
// which are texels or, in a row, four positions.

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint M_in, W_in;
    uint pitch_out, pitch_in;
} pc;

#include "texel.glslh"
#include "workgroup_sum.glslh"

uint plane() {
    return gl_WorkGroupID.y + pc.origin_y;
}

#ifdef TEXTURE3D
#extension GL_EXT_samplerless_texture_functions : require

layout(set = 0, binding = 0, TEXEL_FORMAT) uniform restrict writeonly TEXEL_IMAGE3D t_out;
layout(set = 0, binding = 1) uniform texture3D t_in;

uint vectors() {
    return pc.M_in;
}

vec4 load(const uint i) {
    return texelFetch(t_in, ivec3(i % pc.W_in, i / pc.W_in, plane()), 0);
}

void store_mean(const vec4 total) {
    imageStore(t_out, ivec3(0, 0, plane()), to_texel(total / float(pc.M_in)));
}
#else
layout(set = 0, binding = 0) restrict writeonly buffer Output {
    PACKED_VEC4 t_out[];
};
layout(set = 0, binding = 1) restrict readonly buffer Input {
    PACKED_VEC4 t_in[];
};

uint vectors() {
    return (pc.M_in + 3u) / 4u;
}

vec4 load(const uint i) {
    const vec4 values = unpack_vec4(t_in[plane() * (pc.pitch_in / 4u) + i]);
    // A select: what the padding holds may be NaN.
    return mix(values, vec4(0.0), greaterThanEqual(4u * i + uvec4(0, 1, 2, 3), uvec4(pc.M_in)));
}

void store_mean(const vec4 total) {
    const float mean = (total.x + total.y + total.z + total.w) / float(pc.M_in);
    t_out[plane() * (pc.pitch_out / 4u)] = pack_vec4(vec4(mean, 0.0, 0.0, 0.0));
}
#endif

#include "strided_sum.glslh"

void main() {
    const vec4 total = workgroup_sum(strided_sum(vectors()));
    if (gl_LocalInvocationID.x == 0u) {
        store_mean(total);
    }
}
