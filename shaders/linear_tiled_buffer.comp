#version 450
// Linear layer between tensors [B, M, K] and [B, M, N] stored as buffers, rows as linear_buffer.glslh
// says:
//   Y[b,m,n] = act( bias[n] + Σ_k Wt[b,n,k] · X[b,m,k] )
//
// It is conv2d_pw_tiled.comp with another input tile loaded, and another output tile stored.

#extension GL_EXT_samplerless_texture_functions : require

#include "fp_tiles.glslh"
#include "linear_buffer.glslh"

struct InputRows {
    uint first[TILE_M];
};

InputRows input_rows(const uint m_first, const uint b) {
    InputRows rows;
    [[unroll]] for (int m = 0; m < TILE_M; ++m) {
        // Rows past M repeat the last one; their outputs are not stored.
        rows.first[m] = input_row(min(m_first + m, pc.M - 1u), b);
    }
    return rows;
}

void load_input_tile(out FPInputTile tile, const InputRows rows, const uint k4_first,
                     const uint b) {
    [[unroll]] for (int m = 0; m < TILE_M; ++m) {
        [[unroll]] for (int k4 = 0; k4 < TILE_K4; ++k4) {
            tile.data[m][k4] = FP_VEC4(load_four(rows.first[m], 4u * (k4_first + k4)));
        }
    }
}

void store_column(const vec4 sums[TILE_M], const uint m_first, const uint n4, const uint b) {
    [[unroll]] for (int m = 0; m < TILE_M; ++m) {
        if (m_first + m < pc.M) {
            store_four(output_row(m_first + m, b), 4u * n4, activated(sums[m]));
        }
    }
}

#ifdef SLICES
#include "sliced_matmul.glslh"
#else
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
#include "invocation.glslh"
#include "tiled_matmul.glslh"
#endif
