#version 450
// Linear layer between tensors [B, M, K] and [B, M, N] stored as buffers, each input element read once
// a workgroup. linear_tiled_buffer.comp has the formula; staged_matmul.glslh the tiling.
//
// It is conv2d_pw_staged_texture3d.comp with another input fetched, and another output stored: a vec4
// in shared memory is four input channels of a row.

#extension GL_EXT_samplerless_texture_functions : require

#include "fp_tiles.glslh"
#include "linear_buffer.glslh"
#include "packed_weight.glslh"
#include "staged_block.glslh"

// Element i of a stage of the input is (m, k4), so that neighbours fetch neighbouring vec4s: its row.
uint input_at[INPUT_LOADS];

void begin_input(const uint m_first, const uint b) {
    [[unroll]] for (uint load = 0; load < INPUT_LOADS; ++load) {
        const uint i = load * THREADS + gl_LocalInvocationID.x;
        // Rows past M repeat the last one; their outputs are not stored.
        input_at[load] = input_row(min(m_first + i / BLOCK_K4, pc.M - 1u), b);
    }
}

FP_VEC4 fetch_input(const uint load, const uint k4_first) {
    const uint i = load * THREADS + gl_LocalInvocationID.x;
    return FP_VEC4(load_four(input_at[load], 4u * (k4_first + i % BLOCK_K4)));
}

// In shared memory rows follow each other. Bank conflicts: a row's vec4s would all go to the same bank;
// rows are permuted within groups of eight, k4 by k4.
uint staged_row(const uint m, const uint k4) {
    return k4 * BLOCK_M + (m ^ (8u / BLOCK_K4 * k4 % 8u));
}

uint staged_input(const uint i) {
    return staged_row(i / BLOCK_K4, i % BLOCK_K4);
}

// Row r of the tile is row thread_m + r·THREADS_M of the block.
void load_input_tile(out FPInputTile tile, const uint at, const uint k4, const uint thread_m) {
    [[unroll]] for (uint r = 0; r < TILE_M; ++r) {
        tile.data[r][0] = staged[at + staged_row(thread_m + r * THREADS_M, k4)];
    }
}

void store_column(const vec4 sums[TILE_M], const uint m_first, const uint thread_m, const uint n4,
                  const uint b) {
    [[unroll]] for (uint r = 0; r < TILE_M; ++r) {
        const uint m = m_first + thread_m + r * THREADS_M;
        if (m < pc.M && n4 < pc.N4) {
            store_four(output_row(m, b), 4u * n4, activated(sums[r]));
        }
    }
}

#include "staged_matmul.glslh"
