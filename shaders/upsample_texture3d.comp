#version 450
// Each texel repeated `scale` times along x and along y: nearest upsampling.
//
// x, y, z → the texel of the output.

#extension GL_EXT_samplerless_texture_functions : require

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint W_out, H_out, depth, scale;
} pc;

#include "invocation.glslh"
#include "texel.glslh"

layout(set = 0, binding = 0, TEXEL_FORMAT) uniform restrict writeonly TEXEL_IMAGE3D t_out;
layout(set = 0, binding = 1) uniform texture3D t_in;

void main() {
    const uvec3 texel = invocation_index();
    if (any(greaterThanEqual(texel, uvec3(pc.W_out, pc.H_out, pc.depth)))) {
        return;
    }
    const vec4 value = texelFetch(t_in, ivec3(texel.xy / pc.scale, texel.z), 0);
    imageStore(t_out, ivec3(texel), to_texel(value));
}
