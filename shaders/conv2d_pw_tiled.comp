#version 450
// Pointwise convolution on channels-packed 3D textures:
//   Y[n,o,m] = act( bias[o] + Σ_i Wt[o,i] · X[n,i,m] (· scale[n,i]) (+ residual[n,o,m]) )
// with m walking the output, flat: x = m mod W_out, y = m div W_out. With a kernel of more than one tap
// (kernel_taps.glslh) the input is gathered, and the rest is the same.

#extension GL_EXT_samplerless_texture_functions : require

#include "fp_tiles.glslh"
#include "texel.glslh"

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

// True where stride is 1 and padding 0: outputs and inputs then share their coordinates.
layout(constant_id = 4) const bool POINTWISE_GRID = true;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint batches, M, N, N4, K4;
    uint W_out;
    int W_in, H_in;
    int stride_w, stride_h, pad_w, pad_h;
    float activation_a, activation_b;
} pc;

#include "epilogue.glslh"
#include "invocation.glslh"
#include "kernel_taps.glslh"
#include "residual_texture3d.glslh"
#include "scale_texture3d.glslh"
#include "shared_positions.glslh"

layout(set = 0, binding = 0, TEXEL_FORMAT) uniform restrict writeonly TEXEL_IMAGE3D t_out;
layout(set = 0, binding = 1) uniform texture3D t_in;

ivec2 output_position(const uint m) {
    const uint position = position_of(m);
    return ivec2(position % pc.W_out, position / pc.W_out);
}

struct InputRows {
    ivec2 position[TILE_M];
    bool inside[TILE_M];
    uint layer[TILE_M];
};

InputRows input_rows(const uint m_first, const uint b) {
    InputRows rows;
    [[unroll]] for (int m = 0; m < TILE_M; ++m) {
        // Positions past M repeat the last one; their outputs are not stored.
        const uint at = min(m_first + m, pc.M - 1u);
        rows.layer[m] = sample_of(at, b) * (pc.K4 / TAPS);
        ivec2 position = output_position(at);
        if (POINTWISE_GRID) {
            rows.inside[m] = true;
        } else {
            position = position * ivec2(pc.stride_w, pc.stride_h) - ivec2(pc.pad_w, pc.pad_h);
            const ivec2 nearest = clamp(position, ivec2(0), ivec2(pc.W_in, pc.H_in) - 1);
            rows.inside[m] = position == nearest;
            position = TAPS == 1 ? nearest : position;
        }
        rows.position[m] = position;
    }
    return rows;
}

void load_input_tile(out FPInputTile tile, const InputRows rows, const uint k4_first,
                     const uint b) {
    [[unroll]] for (int m = 0; m < TILE_M; ++m) {
        [[unroll]] for (int k4 = 0; k4 < TILE_K4; ++k4) {
            const bool within = TILE_K4 == 1 || k4_first + k4 < pc.K4;
            const uint at = within ? k4_first + k4 : 0u;
            ivec3 from = ivec3(rows.position[m], rows.layer[m] + at / TAPS);
            bool inside = rows.inside[m];
            if (TAPS > 1) {
                const ivec2 position = from.xy + tap_offset(at);
                from.xy = clamp(position, ivec2(0), ivec2(pc.W_in, pc.H_in) - 1);
                inside = position == from.xy;
            }
            const vec4 texel = scaled(texelFetch(t_in, from, 0), from.z);
            tile.data[m][k4] = FP_VEC4(within && inside ? texel : vec4(0.0));
        }
    }
}

void store_column(const vec4 sums[TILE_M], const uint m_first, const uint n4, const uint b) {
    [[unroll]] for (int m = 0; m < TILE_M; ++m) {
        if (m_first + m < pc.M) {
            const uint layer = sample_of(m_first + m, b) * pc.N4 + n4;
            const ivec3 at = ivec3(output_position(m_first + m), layer);
            imageStore(t_out, at, epilogue(add_residual(sums[m], at), n4));
        }
    }
}

#include "tiled_matmul.glslh"
