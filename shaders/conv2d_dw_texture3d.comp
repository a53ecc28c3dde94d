#version 450
// Depthwise convolution: each channel by a kernel of its own, KERNEL_H × KERNEL_W, in fp32.
//
//   weight   [C4][KERNEL_H·KERNEL_W] vec4s of fp32: a tap of four channels
//
// x, y, z → the texel of the output.

#extension GL_EXT_samplerless_texture_functions : require

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(constant_id = 4) const int KERNEL_W = 3;
layout(constant_id = 5) const int KERNEL_H = 3;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint W_out, H_out, depth, N, N4;
    int W_in, H_in;
    int stride_w, stride_h, pad_w, pad_h;
    float activation_a, activation_b;
} pc;

#include "invocation.glslh"
#include "texel.glslh"

layout(set = 0, binding = 0, TEXEL_FORMAT) uniform restrict writeonly TEXEL_IMAGE3D t_out;
layout(set = 0, binding = 1) uniform texture3D t_in;
layout(set = 0, binding = 2) restrict readonly buffer Weight {
    vec4 weight[];
};

#include "epilogue.glslh"

void main() {
    const uvec3 texel = invocation_index();
    if (any(greaterThanEqual(texel, uvec3(pc.W_out, pc.H_out, pc.depth)))) {
        return;
    }
    const uint c4 = texel.z % pc.N4;
    const ivec2 first =
        ivec2(texel.xy) * ivec2(pc.stride_w, pc.stride_h) - ivec2(pc.pad_w, pc.pad_h);
    uint tap = c4 * uint(KERNEL_H * KERNEL_W);
    vec4 sum = vec4(0.0);
    for (int dy = 0; dy < KERNEL_H; ++dy) {
        for (int dx = 0; dx < KERNEL_W; ++dx) {
            const ivec2 position = first + ivec2(dx, dy);
            // Padding is zeros, not taps that are left out: times an infinite weight they are NaN.
            vec4 x = vec4(0.0);
            if (all(greaterThanEqual(position, ivec2(0))) &&
                all(lessThan(position, ivec2(pc.W_in, pc.H_in)))) {
                x = texelFetch(t_in, ivec3(position, texel.z), 0);
            }
            sum = fma(x, weight[tap], sum);
            ++tap;
        }
    }
    imageStore(t_out, ivec3(texel), epilogue(sum + bias[c4], c4));
}
