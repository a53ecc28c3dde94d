#version 450
// Two pointwise convolutions with an activation between them, on channels-packed 3D textures.
// conv2d_pw_pair_staged_buffer.comp has the formula; staged_matmul_pair.glslh the tiling.

#extension GL_EXT_samplerless_texture_functions : require

#include "fp_tiles.glslh"
#include "texel.glslh"

// True where K is a multiple of BLOCK_K, and H of BLOCK_H.
layout(constant_id = 5) const bool WHOLE_STEPS = false;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint M, N, H, N4, K4, H4;
    uint W_out;
    float hidden_a, hidden_b;
    float activation_a, activation_b;
} pc;

layout(set = 0, binding = 0, TEXEL_FORMAT) uniform restrict writeonly TEXEL_IMAGE3D t_out;
layout(set = 0, binding = 1) uniform texture3D t_in;

#define BIAS second_bias
#define BIAS_BINDING 6
#include "epilogue.glslh"
#include "staged_block.glslh"
#include "staged_texels.glslh"

// Element i of a stage of the input is (k4, m): its texel in the first stage.
ivec3 input_at[INPUT_LOADS];

void begin_input(const uint m_first, const uint b) {
    [[unroll]] for (uint load = 0; load < INPUT_LOADS; ++load) {
        const uint i = load * THREADS + gl_LocalInvocationID.x;
        // Positions past M repeat the last one; their outputs are not stored.
        const uint m = min(m_first + i % BLOCK_M, pc.M - 1u);
        input_at[load] = ivec3(m % pc.W_out, m / pc.W_out, b * pc.K4 + i / BLOCK_M);
    }
}

FP_VEC4 fetch_input(const uint load, const uint k4_first) {
    const uint i = load * THREADS + gl_LocalInvocationID.x;
    const bool within = WHOLE_STEPS || k4_first + i / BLOCK_M < pc.K4;
    const int layer = within ? input_at[load].z + int(k4_first) : 0;
    const vec4 texel = texelFetch(t_in, ivec3(input_at[load].xy, layer), 0);
    return FP_VEC4(within ? texel : vec4(0.0));
}

void store_hidden(const FP_VEC4 column[TILE_M], const uint at, const uint h4, const uint thread_m) {
    [[unroll]] for (uint r = 0; r < TILE_M; ++r) {
        staged[at + h4 * BLOCK_M + thread_m + r * THREADS_M] = column[r];
    }
}

#include "staged_matmul_pair.glslh"
