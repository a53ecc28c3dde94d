#version 450
// Pointwise convolution between tensors stored as buffers: N·C rows of H·W positions, each row padded
// to a whole number of 16-byte vectors. conv2d_pw_tiled.comp has the formula; staged_matmul.glslh the
// tiling.

#extension GL_EXT_samplerless_texture_functions : require

#include "fp_tiles.glslh"
#include "texel.glslh"

// True where stride is 1 and padding 0: outputs and inputs then share their positions.
layout(constant_id = 4) const bool POINTWISE_GRID = true;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint M, N, K, N4, K4;
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
#include "packed_weight.glslh"
#include "staged_block.glslh"

#define BLOCK_M4 (BLOCK_M / 4)
#define FETCHES ((BLOCK_K4 * BLOCK_M4 + THREADS - 1) / THREADS)

// Four vec4s along m, one an input channel, are transposed into four along k.
FP_VEC4 fetched_input[FETCHES][4];
uint block_m_first;

void begin_input(const uint m_first) {
    block_m_first = m_first;
}

float load_position(const uint row, const ivec2 position) {
    if (any(lessThan(position, ivec2(0))) ||
        any(greaterThanEqual(position, ivec2(pc.W_in, pc.H_in)))) {
        return 0.0;
    }
    const uint at = row * pc.pitch_in + uint(position.y * pc.W_in + position.x);
    return unpack_vec4(t_in[at / 4u])[at % 4u];
}

vec4 load_positions(const uint row, const uint m) {
    if (POINTWISE_GRID) {
        // Past the end of the row, inside its padding or the next: such outputs are not stored.
        return unpack_vec4(t_in[(row * pc.pitch_in + min(m, pc.pitch_in - 4u)) / 4u]);
    }
    vec4 values;
    [[unroll]] for (uint j = 0; j < 4; ++j) {
        const uint at = min(m + j, pc.M - 1u);
        values[j] = load_position(row, ivec2(at % pc.W_out, at / pc.W_out) *
                                               ivec2(pc.stride_w, pc.stride_h) -
                                           ivec2(pc.pad_w, pc.pad_h));
    }
    return values;
}

void fetch_input(const uint k4_first, const uint b) {
    [[unroll]] for (uint load = 0; load < FETCHES; ++load) {
        const uint i = load * THREADS + gl_LocalInvocationID.x;
        const uint m = block_m_first + 4u * (i % BLOCK_M4);
        const uint k = 4u * (k4_first + i / BLOCK_M4);
        [[unroll]] for (uint dk = 0; dk < 4; ++dk) {
            const bool within = k + dk < pc.K;
            const vec4 values = load_positions(b * pc.K + (within ? k + dk : 0u), m);
            fetched_input[load][dk] = FP_VEC4(within ? values : vec4(0.0));
        }
    }
}

// Position 4·q + j of the block is staged in slot j·BLOCK_M/4 + q: invocations whose positions follow
// each other by four then read neighbouring vec4s, and each stores four positions at once.
void stage_input(const uint stage) {
    [[unroll]] for (uint load = 0; load < FETCHES; ++load) {
        const uint i = load * THREADS + gl_LocalInvocationID.x;
        if (FETCHES * THREADS == BLOCK_K4 * BLOCK_M4 || i < BLOCK_K4 * BLOCK_M4) {
            [[unroll]] for (uint j = 0; j < 4; ++j) {
                staged_input[stage][i / BLOCK_M4][j * BLOCK_M4 + i % BLOCK_M4] =
                    FP_VEC4(fetched_input[load][0][j], fetched_input[load][1][j],
                            fetched_input[load][2][j], fetched_input[load][3][j]);
            }
        }
    }
}

void store_block(const FPOutTile out_tile, const uint m_first, const uint thread_m,
                 const uint n4_first, const uint b) {
    [[unroll]] for (uint n4 = 0; n4 < TILE_N4; ++n4) {
        const uint at_n4 = n4_first + n4 * THREADS_N;
        [[unroll]] for (uint q = 0; q < TILE_M / 4; ++q) {
            const uint m = m_first + 4u * (thread_m + q * THREADS_M);
            vec4 columns[4];
            [[unroll]] for (uint j = 0; j < 4; ++j) {
                columns[j] =
                    activated(vec4(out_tile.data[q + j * (TILE_M / 4)][n4]), min(at_n4, pc.N4 - 1u));
            }
            [[unroll]] for (uint lane = 0; lane < 4; ++lane) {
                const uint n = 4u * at_n4 + lane;
                if (m < pc.M && n < pc.N) {
                    t_out[((b * pc.N + n) * pc.pitch_out + m) / 4u] = pack_vec4(
                        vec4(columns[0][lane], columns[1][lane], columns[2][lane], columns[3][lane]));
                }
            }
        }
    }
}

#include "staged_matmul.glslh"
