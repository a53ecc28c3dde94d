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

// Where the input is gathered, an invocation fetches the same positions of every channel.
#if THREADS % BLOCK_M4 != 0
#error "an invocation fetches more than one column of a stage"
#endif

// One element; halves are read in pairs.
float load_element(const uint index) {
#ifdef STORE_FP16
    const vec2 pair = unpackHalf2x16(t_in[index / 4u][index / 2u % 2u]);
    return index % 2u == 0u ? pair.x : pair.y;
#else
    return t_in[index / 4u][index % 4u];
#endif
}

// Element i of a stage of the input is (k, m4): the vec4 and the row that it comes from, where
// POINTWISE_GRID.
uint input_at[INPUT_LOADS];
uint input_row[INPUT_LOADS];
// Else of each position the first channel's row, and where the input is under a kernel's first tap.
uvec4 gathered_row;
ivec4 gathered_x, gathered_y;

void begin_input(const uint m_first, const uint b) {
    if (!POINTWISE_GRID) {
        const uint m = m_first + 4u * (gl_LocalInvocationID.x % BLOCK_M4);
        [[unroll]] for (uint j = 0; j < 4; ++j) {
            const uint at = min(m + j, pc.M - 1u);
            const uint position = position_of(at);
            gathered_row[j] = sample_of(at, b) * pc.C;
            gathered_x[j] = int(position % pc.W_out) * pc.stride_w - pc.pad_w;
            gathered_y[j] = int(position / pc.W_out) * pc.stride_h - pc.pad_h;
        }
        return;
    }
    [[unroll]] for (uint load = 0; load < INPUT_LOADS; ++load) {
        const uint i = load * THREADS + gl_LocalInvocationID.x;
        // Past the end of the row there is padding, or the next row: such outputs are not stored.
        const uint end = SHARED == 0u ? pc.pitch_in : pc.M;
        const uint m = min(m_first + 4u * (i % BLOCK_M4), end - 4u);
        const uint row = sample_of(m, b) * pc.K + i / BLOCK_M4;
        input_at[load] = (row * pc.pitch_in + position_of(m)) / 4u;
        input_row[load] = row;
    }
}

// Of element k of the products' K; zero around the input, and where there is no such channel.
vec4 gather(const uint k) {
    const ivec2 tap = TAPS == 1 ? ivec2(0) : tap_offset(k / 4u);
    const uint c = TAPS == 1 ? k : 4u * (k / 4u / TAPS) + k % 4u;
    const uvec4 rows = gathered_row + c;
    vec4 values;
    bvec4 within;
    [[unroll]] for (uint j = 0; j < 4; ++j) {
        const uint x = uint(gathered_x[j] + tap.x), y = uint(gathered_y[j] + tap.y);
        // Below zero is past the end, too.
        within[j] = c < pc.C && x < uint(pc.W_in) && y < uint(pc.H_in);
        values[j] = load_element(within[j] ? rows[j] * pc.pitch_in + y * uint(pc.W_in) + x : 0u);
    }
    if (SHARED == 1u) {
        [[unroll]] for (uint j = 0; j < 4; ++j) {
            values[j] = scaled(vec4(values[j]), c < pc.C ? rows[j] : 0u).x;
        }
    } else {
        values = scaled(values, c < pc.C ? rows.x : 0u);
    }
    return mix(vec4(0.0), values, within);
}

FP_VEC4 fetch_input(const uint load, const uint k4_first) {
    const uint i = load * THREADS + gl_LocalInvocationID.x;
    if (!POINTWISE_GRID) {
        return FP_VEC4(gather(4u * k4_first + i / BLOCK_M4));
    }
    const bool within = WHOLE_STEPS || 4u * k4_first + i / BLOCK_M4 < pc.K;
    const uint at = within ? input_at[load] : 0u;
    const vec4 values = scaled(unpack_vec4(t_in[at]), within ? input_row[load] : 0u);
    input_at[load] += BLOCK_K4 * pc.pitch_in;
    input_row[load] += BLOCK_K;
    return FP_VEC4(within ? values : vec4(0.0));
}

#include "staged_matmul.glslh"
