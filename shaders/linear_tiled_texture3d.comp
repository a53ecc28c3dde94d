#version 450
// Linear layer between tensors [..., K] and [..., N] stored as 3D textures; linear_tiled_buffer.comp
// has the formula.
//
// A tensor [n, C, H, K] has its rows in the lanes: texel (k, h, n·C4 + c4) holds element k of four
// rows, those of c = 4·c4 … 4·c4 + 3. So four texels that follow each other are four rows of the input
// tile, transposed:
//
//             k  k+1 k+2 k+3                        Where C is 1 a texel holds one row, and the other
//   row 0   [ .x  .x  .x  .x ]  → data[0]           lanes are zero: LANES is 1, and not 4.
//   row 1   [ .y  .y  .y  .y ]  → data[1]
//   row 2   [ .z  .z  .z  .z ]  → data[2]           m = LANES·(group of rows) + lane; groups are in the
//   row 3   [ .w  .w  .w  .w ]  → data[3]           order of z, then y. M counts the lanes past C too.

#extension GL_EXT_samplerless_texture_functions : require

#define BATCHED_WEIGHT

#include "fp_tiles.glslh"
#include "texel.glslh"

// True where K is a whole number of the kernel's steps.
layout(constant_id = 5) const bool WHOLE_STEPS = false;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint batches, M, N, K, N4, K4;
    uint C, H;
    float activation_a, activation_b;
} pc;

#include "epilogue.glslh"

layout(set = 0, binding = 0, TEXEL_FORMAT) uniform restrict writeonly TEXEL_IMAGE3D t_out;
layout(set = 0, binding = 1) uniform texture3D t_in;

#define GROUPS (TILE_M / LANES)

// y and z of a group's texels.
ivec2 group_position(const uint m, const uint b) {
    const uint group = (b * pc.M + m) / LANES;
    return ivec2(group % pc.H, group / pc.H);
}

struct InputRows {
    ivec2 position[GROUPS];
};

InputRows input_rows(const uint m_first, const uint b) {
    InputRows rows;
    [[unroll]] for (int g = 0; g < GROUPS; ++g) {
        // Groups past M repeat the last one; their outputs are not stored.
        rows.position[g] = group_position(min(m_first + LANES * g, pc.M - 1u), b);
    }
    return rows;
}

void load_input_tile(out FPInputTile tile, const InputRows rows, const uint k4_first,
                     const uint b) {
    [[unroll]] for (int g = 0; g < GROUPS; ++g) {
        [[unroll]] for (int k4 = 0; k4 < TILE_K4; ++k4) {
            [[unroll]] for (int dk = 0; dk < 4; ++dk) {
                const uint k = 4u * (k4_first + k4) + dk;
                const bool within = WHOLE_STEPS || k < pc.K;
                const vec4 texel =
                    texelFetch(t_in, ivec3(within ? k : 0u, rows.position[g]), 0);
                [[unroll]] for (int lane = 0; lane < LANES; ++lane) {
                    tile.data[LANES * g + lane][k4][dk] = FP_VEC4(within ? texel : vec4(0.0))[lane];
                }
            }
        }
    }
}

void store_column(const vec4 sums[TILE_M], const uint m_first, const uint n4, const uint b) {
    [[unroll]] for (int g = 0; g < GROUPS; ++g) {
        const uint m = m_first + LANES * g;
        const ivec2 position = group_position(m, b);
        // A select, not a product: lanes past C are zero whatever the bias and the activation.
        const uint c_first = LANES * (position.y % ((pc.C + LANES - 1u) / LANES));
        const bvec4 past_C = greaterThanEqual(c_first + uvec4(0, 1, 2, 3), uvec4(pc.C));
        mat4 rows = mat4(0.0);
        [[unroll]] for (int lane = 0; lane < LANES; ++lane) {
            rows[lane] = activated(sums[LANES * g + lane]);
        }
        const mat4 texels = transpose(rows);
        [[unroll]] for (uint dn = 0; dn < 4; ++dn) {
            const uint n = 4u * n4 + dn;
            if (m < pc.M && n < pc.N) {
                const vec4 texel = mix(texels[dn], vec4(0.0), past_C);
                imageStore(t_out, ivec3(n, position), to_texel(texel));
            }
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
