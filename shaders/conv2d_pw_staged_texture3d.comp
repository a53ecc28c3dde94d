#version 450
// Pointwise convolution on channels-packed 3D textures, each texel fetched once a workgroup.
// conv2d_pw_tiled.comp has the formula; staged_matmul.glslh the tiling.

#extension GL_EXT_samplerless_texture_functions : require

#include "fp_tiles.glslh"
#include "texel.glslh"

// True where stride is 1 and padding 0: outputs and inputs then share their coordinates.
layout(constant_id = 4) const bool POINTWISE_GRID = true;
// True where K is a multiple of BLOCK_K.
layout(constant_id = 5) const bool WHOLE_STEPS = false;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint M, N, N4, K4;
    uint W_out;
    int W_in, H_in;
    int stride_w, stride_h, pad_w, pad_h;
    float activation_a, activation_b;
} pc;

layout(set = 0, binding = 0, TEXEL_FORMAT) uniform restrict writeonly TEXEL_IMAGE3D t_out;
layout(set = 0, binding = 1) uniform texture3D t_in;

#include "epilogue.glslh"
#include "kernel_taps.glslh"
#include "packed_weight.glslh"
#include "scale_texture3d.glslh"
#include "staged_block.glslh"
#include "staged_texels.glslh"

// Element i of a stage of the input is (k4, m): its texel.
ivec3 input_at[INPUT_LOADS];
bool input_inside[INPUT_LOADS];

void begin_input(const uint m_first, const uint b) {
    [[unroll]] for (uint load = 0; load < INPUT_LOADS; ++load) {
        const uint i = load * THREADS + gl_LocalInvocationID.x;
        // Positions past M repeat the last one; their outputs are not stored.
        const uint at = min(m_first + i % BLOCK_M, pc.M - 1u);
        const uint m = position_of(at);
        ivec2 position = ivec2(m % pc.W_out, m / pc.W_out);
        input_inside[load] = true;
        if (!POINTWISE_GRID) {
            const ivec2 outside = position * ivec2(pc.stride_w, pc.stride_h) -
                                  ivec2(pc.pad_w, pc.pad_h);
            position = clamp(outside, ivec2(0), ivec2(pc.W_in, pc.H_in) - 1);
            input_inside[load] = position == outside;
            position = TAPS == 1 ? position : outside;
        }
        const uint layer = sample_of(at, b) * (pc.K4 / TAPS);
        input_at[load] = ivec3(position, layer + (TAPS == 1 ? i / BLOCK_M : 0u));
    }
}

FP_VEC4 gather_tap(const ivec3 first, const uint k4) {
    const ivec2 position = first.xy + tap_offset(k4);
    const ivec2 nearest = clamp(position, ivec2(0), ivec2(pc.W_in, pc.H_in) - 1);
    const vec4 texel = texelFetch(t_in, ivec3(nearest, first.z + int(k4 / TAPS)), 0);
    return FP_VEC4(position == nearest ? texel : vec4(0.0));
}

FP_VEC4 fetch_input(const uint load, const uint k4_first) {
    const uint i = load * THREADS + gl_LocalInvocationID.x;
    const bool within = WHOLE_STEPS || k4_first + i / BLOCK_M < pc.K4;
    if (TAPS > 1) {
        return within ? gather_tap(input_at[load], k4_first + i / BLOCK_M) : FP_VEC4(0.0);
    }
    const ivec2 at = input_at[load].xy;
    const int layer = within ? input_at[load].z : 0;
    input_at[load].z += BLOCK_K4;
    const vec4 texel = scaled(texelFetch(t_in, ivec3(at, layer), 0), layer);
    return FP_VEC4(within && input_inside[load] ? texel : vec4(0.0));
}

#include "staged_matmul.glslh"
