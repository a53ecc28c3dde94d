#version 450
// Pointwise convolution between tensors stored as buffers: N·C rows of H·W positions, each row padded
// to a whole number of 16-byte vectors. conv2d_pw_tiled.comp has the formula; staged_matmul.glslh the
// tiling.

#extension GL_EXT_samplerless_texture_functions : require

#include "fp_tiles.glslh"
#include "texel.glslh"

// True where stride is 1 and padding 0: outputs and inputs then share their positions.
layout(constant_id = 4) const bool POINTWISE_GRID = true;
// True where K is a multiple of BLOCK_K.
layout(constant_id = 5) const bool WHOLE_STEPS = false;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint M, N, K, N4, K4, C;
    uint pitch_out, pitch_in;
    uint W_out;
    int W_in, H_in;
    int stride_w, stride_h, pad_w, pad_h;
    float activation_a, activation_b;
} pc;

// Four positions of a row; in fp16 four halves.
layout(set = 0, binding = 0) restrict writeonly buffer Output {
    PACKED_VEC4 t_out[];
};
layout(set = 0, binding = 1) restrict readonly buffer Input {
    PACKED_VEC4 t_in[];
};

#include "epilogue.glslh"
#include "kernel_taps.glslh"
#include "packed_weight.glslh"
#include "scale_rows.glslh"
#include "staged_block.glslh"
#include "staged_rows.glslh"

float load_position(const uint row, const ivec2 position) {
    if (any(lessThan(position, ivec2(0))) ||
        any(greaterThanEqual(position, ivec2(pc.W_in, pc.H_in)))) {
        return 0.0;
    }
    const uint at = row * pc.pitch_in + uint(position.y * pc.W_in + position.x);
    return scaled(unpack_vec4(t_in[at / 4u]), row)[at % 4u];
}

// Element i of a stage of the input is (k, m4): where it comes from, in vec4s where POINTWISE_GRID.
uint input_at[INPUT_LOADS];
uint input_m[INPUT_LOADS];
// Its row, where POINTWISE_GRID.
uint input_row[INPUT_LOADS];

void begin_input(const uint m_first, const uint b) {
    [[unroll]] for (uint load = 0; load < INPUT_LOADS; ++load) {
        const uint i = load * THREADS + gl_LocalInvocationID.x;
        const uint row = b * pc.K + i / BLOCK_M4;
        const uint m = m_first + 4u * (i % BLOCK_M4);
        if (POINTWISE_GRID) {
            // Past the end of the row there is padding, or the next row: such outputs are not stored.
            input_at[load] = (row * pc.pitch_in + min(m, pc.pitch_in - 4u)) / 4u;
            input_row[load] = row;
        } else {
            input_at[load] = TAPS == 1 ? row : b * pc.C;
            input_m[load] = m;
        }
    }
}

vec4 gather_positions(const uint row, const uint m, const ivec2 offset) {
    vec4 values;
    [[unroll]] for (uint j = 0; j < 4; ++j) {
        const uint at = min(m + j, pc.M - 1u);
        values[j] = load_position(row, ivec2(at % pc.W_out, at / pc.W_out) *
                                               ivec2(pc.stride_w, pc.stride_h) -
                                           ivec2(pc.pad_w, pc.pad_h) + offset);
    }
    return values;
}

FP_VEC4 gather_tap(const uint row_first, const uint m, const uint k) {
    const uint c = 4u * (k / 4u / TAPS) + k % 4u;
    // Channels past C are packed as zeros, and are not there.
    return FP_VEC4(c < pc.C ? gather_positions(row_first + c, m, tap_offset(k / 4u)) : vec4(0.0));
}

FP_VEC4 fetch_input(const uint load, const uint k4_first) {
    const uint i = load * THREADS + gl_LocalInvocationID.x;
    const bool within = WHOLE_STEPS || 4u * k4_first + i / BLOCK_M4 < pc.K;
    if (TAPS > 1) {
        const uint k = 4u * k4_first + i / BLOCK_M4;
        return within ? gather_tap(input_at[load], input_m[load], k) : FP_VEC4(0.0);
    }
    const uint at = within ? input_at[load] : 0u;
    vec4 values;
    if (POINTWISE_GRID) {
        values = scaled(unpack_vec4(t_in[at]), within ? input_row[load] : 0u);
        input_at[load] += BLOCK_K4 * pc.pitch_in;
        input_row[load] += BLOCK_K;
    } else {
        values = gather_positions(at, input_m[load], ivec2(0));
        input_at[load] += BLOCK_K;
    }
    return FP_VEC4(within ? values : vec4(0.0));
}

#include "staged_matmul.glslh"
