#version 450
// Two pointwise convolutions with an activation between them, on tensors stored as buffers:
//   Y[n,m] = act2( b2[n] + Σ_h W2[n,h] · act1( b1[h] + Σ_k W1[h,k]·X[k,m] ) (+ residual[n,m]) )
// conv2d_pw_staged_buffer.comp is one of them; staged_matmul_pair.glslh the tiling.

#extension GL_EXT_samplerless_texture_functions : require

#include "fp_tiles.glslh"
#include "texel.glslh"

// True where K is a multiple of BLOCK_K, and H of BLOCK_H.
layout(constant_id = 5) const bool WHOLE_STEPS = false;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint M, N, K, H, N4, K4, H4;
    uint pitch_out, pitch_in;
    float hidden_a, hidden_b;
    float activation_a, activation_b;
} pc;

// Four positions of a row; in fp16 four halves.
layout(set = 0, binding = 0) restrict writeonly buffer Output {
    PACKED_VEC4 t_out[];
};
layout(set = 0, binding = 1) restrict readonly buffer Input {
    PACKED_VEC4 t_in[];
};

#define BIAS second_bias
#define BIAS_BINDING 6
#include "epilogue.glslh"
#include "staged_block.glslh"
#include "staged_rows.glslh"

// Element i of a stage of the input is (k, m4): where it comes from in the first stage, in vec4s.
uint input_at[INPUT_LOADS];

void begin_input(const uint m_first, const uint b) {
    [[unroll]] for (uint load = 0; load < INPUT_LOADS; ++load) {
        const uint i = load * THREADS + gl_LocalInvocationID.x;
        const uint row = b * pc.K + i / BLOCK_M4;
        // Past the end of the row there is padding, or the next row: such outputs are not stored.
        const uint m = min(m_first + 4u * (i % BLOCK_M4), pc.pitch_in - 4u);
        input_at[load] = (row * pc.pitch_in + m) / 4u;
    }
}

FP_VEC4 fetch_input(const uint load, const uint k4_first) {
    const uint i = load * THREADS + gl_LocalInvocationID.x;
    const bool within = WHOLE_STEPS || 4u * k4_first + i / BLOCK_M4 < pc.K;
    const vec4 values = unpack_vec4(t_in[within ? input_at[load] + k4_first * pc.pitch_in : 0u]);
    return FP_VEC4(within ? values : vec4(0.0));
}

void store_hidden(const FP_VEC4 column[TILE_M], const uint at, const uint h4, const uint thread_m) {
    [[unroll]] for (uint lane = 0; lane < 4; ++lane) {
        [[unroll]] for (uint q = 0; q < TILE_M / 4; ++q) {
            FP_VEC4 values;
            [[unroll]] for (uint j = 0; j < 4; ++j) {
                values[j] = column[4 * q + j][lane];
            }
            staged[at + (4u * h4 + lane) * BLOCK_M4 + thread_m + q * THREADS_M] = values;
        }
    }
}

#include "staged_matmul_pair.glslh"
