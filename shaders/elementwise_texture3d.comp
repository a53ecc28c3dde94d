#version 450
// act(a), act(a + b) or act(a · b), texel by texel, in fp32. b may be [N, C, 1, 1].
//
// x, y, z → the texel.

#extension GL_EXT_samplerless_texture_functions : require

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint W, H, depth, C, C4;
    float activation_a, activation_b;
} pc;

#include "activation.glslh"
#include "elementwise.glslh"
#include "invocation.glslh"
#include "texel.glslh"

layout(set = 0, binding = 0, TEXEL_FORMAT) uniform restrict writeonly TEXEL_IMAGE3D t_out;
layout(set = 0, binding = 1) uniform texture3D t_a;
layout(set = 0, binding = 2) uniform texture3D t_b;

void main() {
    const ivec3 texel = ivec3(invocation_index());
    if (any(greaterThanEqual(texel, ivec3(pc.W, pc.H, pc.depth)))) {
        return;
    }
    const ivec3 texel_b = BROADCAST ? ivec3(0, 0, texel.z) : texel;
    const vec4 y = combine(texelFetch(t_a, texel, 0), texelFetch(t_b, texel_b, 0));
    const uint c_first = 4u * (uint(texel.z) % pc.C4);
    const bvec4 past_C = greaterThanEqual(c_first + uvec4(0, 1, 2, 3), uvec4(pc.C));
    imageStore(t_out, texel, to_texel(mix(y, vec4(0.0), past_C)));
}
