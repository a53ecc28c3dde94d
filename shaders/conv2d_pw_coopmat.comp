#version 450
// Pointwise convolution between fp16 buffers on VK_KHR_cooperative_matrix: Y = W·X by blocks of
// BLOCK_N output channels × BLOCK_M positions, one a workgroup. conv2d_pw_coopmat2.comp has the layouts.
//
//                        BLOCK_M                      BLOCK_M
//                   ┌──────────────┐            ┌──────────────┐
//           BLOCK_K │    input     │            │ sums of the  │  SUBGROUPS_N × SUBGROUPS_M subgroups,
//                   └──────────────┘    BLOCK_N │  subgroups   │  each with ROWS × COLUMNS matrices
//   BLOCK_K         ┌──────────────┐            │              │  of MATRIX_M × MATRIX_N
//  ┌───────┐        │              │            └──────────────┘
//  │weight │ BLOCK_N│     sums     │
//  │       │        │              │   Input and weight come through shared memory; while one stage is
//  └───────┘        └──────────────┘   multiplied, the next is on its way from memory.
//
// Everything is read and written as vectors of eight halves. The weight's rows and columns are padded
// with zeros to whole blocks.

#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require

layout(local_size_x = THREADS, local_size_y = 1, local_size_z = 1) in;

// A product that the device lists, and how the subgroups share a block.
layout(constant_id = 4) const uint MATRIX_M = 16;
layout(constant_id = 5) const uint MATRIX_N = 16;
layout(constant_id = 6) const uint MATRIX_K = 16;
layout(constant_id = 7) const uint SUBGROUPS_N = 2;
layout(constant_id = 8) const uint SUBGROUPS_M = 2;

// True where a tensor of the output's shape is added before the activation; where it is false nothing
// reads t_residual, and the input is bound in its place.
layout(constant_id = 9) const bool RESIDUAL = false;
// True where the input is multiplied by a tensor [batches, K, 1, 1] as it is staged; where it is false
// nothing reads t_scale, and the input is bound in its place.
layout(constant_id = 10) const bool SCALE = false;

const uint ROWS = BLOCK_N / (SUBGROUPS_N * MATRIX_M);
const uint COLUMNS = BLOCK_M / (SUBGROUPS_M * MATRIX_N);

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint M, N, K;
    uint pitch_out, pitch_in, pitch_weight;
    float activation_a, activation_b;
} pc;

layout(set = 0, binding = 0) restrict writeonly buffer Output {
    uvec4 t_out[];
};
layout(set = 0, binding = 1) restrict readonly buffer Input {
    uvec4 t_in[];
};
layout(set = 0, binding = 2) restrict readonly buffer Weight {
    uvec4 weight_rows[];
};
layout(set = 0, binding = 3) restrict readonly buffer Bias {
    float bias[];
};
layout(set = 0, binding = 4) restrict readonly buffer Residual {
    uvec4 t_residual[];
};
// A row of one element, padded to a vector, for each row of the input.
layout(set = 0, binding = 5) restrict readonly buffer Scale {
    uvec4 t_scale[];
};

#include "activation.glslh"
#include "half_bits.glslh"

// In vectors. A vector more than its length between rows: neighbouring rows begin in other banks.
#define PITCH_M (BLOCK_M / 8 + 1)
#define PITCH_K (BLOCK_K / 8 + 1)
#define STAGED_INPUT (BLOCK_K * PITCH_M)
#define STAGED (STAGED_INPUT + BLOCK_N * PITCH_K)
#define INPUT_LOADS (BLOCK_K * BLOCK_M / 8 / THREADS)
#define WEIGHT_LOADS (BLOCK_N * BLOCK_K / 8 / THREADS)

// Two stages; at the end, the output.
shared uvec4 staged[max(2 * STAGED, BLOCK_N * PITCH_M)];
shared float staged_bias[BLOCK_N];

uvec4 fetched_input[INPUT_LOADS];
float fetched_scale[INPUT_LOADS];
uvec4 fetched_weight[WEIGHT_LOADS];

void fetch(const uint m_first, const uint n_first, const uint k_first, const uint b) {
    [[unroll]] for (uint load = 0; load < INPUT_LOADS; ++load) {
        const uint i = load * THREADS + gl_LocalInvocationID.x;
        const uint k = k_first + i / (BLOCK_M / 8);
        // Past the end of the row, its last vector: such outputs are not stored.
        const uint m = min(m_first + 8u * (i % (BLOCK_M / 8)), pc.pitch_in - 8u);
        const bool within = k < pc.K;
        const uint row = b * pc.K + (within ? k : 0u);
        const uvec4 values = t_in[(row * pc.pitch_in + m) / 8u];
        fetched_input[load] = within ? values : uvec4(0);
        if (SCALE) {
            // Zero past K: an infinite scale would make NaN of the input's zeros.
            fetched_scale[load] = within ? unpackHalf2x16(t_scale[row].x).x : 0.0;
        }
    }
    [[unroll]] for (uint load = 0; load < WEIGHT_LOADS; ++load) {
        const uint i = load * THREADS + gl_LocalInvocationID.x;
        const uint n = n_first + i / (BLOCK_K / 8);
        const uint k = k_first + 8u * (i % (BLOCK_K / 8));
        fetched_weight[load] = weight_rows[(n * pc.pitch_weight + k) / 8u];
    }
}

// In fp32, rounded once: what a product of the two that was stored before would be.
uvec4 scaled(const uvec4 halves, const float scale) {
    uvec4 products;
    [[unroll]] for (int i = 0; i < 4; ++i) {
        products[i] = half_bits(unpackHalf2x16(halves[i]) * scale);
    }
    return products;
}

void stage(const uint at) {
    [[unroll]] for (uint load = 0; load < INPUT_LOADS; ++load) {
        const uint i = load * THREADS + gl_LocalInvocationID.x;
        staged[at + i / (BLOCK_M / 8) * PITCH_M + i % (BLOCK_M / 8)] =
            SCALE ? scaled(fetched_input[load], fetched_scale[load]) : fetched_input[load];
    }
    [[unroll]] for (uint load = 0; load < WEIGHT_LOADS; ++load) {
        const uint i = load * THREADS + gl_LocalInvocationID.x;
        staged[at + STAGED_INPUT + i / (BLOCK_K / 8) * PITCH_K + i % (BLOCK_K / 8)] =
            fetched_weight[load];
    }
}

// Vector i of a block of the output: where it is staged, whether it is within M and N, and where in
// the tensor it lies.
#define BLOCK_VECTORS (BLOCK_N * BLOCK_M / 8)

uint staged_at(const uint i) {
    return i / (BLOCK_M / 8) * PITCH_M + i % (BLOCK_M / 8);
}

bool within(const uint i, const uint m_first, const uint n_first) {
    return n_first + i / (BLOCK_M / 8) < pc.N && m_first + 8u * (i % (BLOCK_M / 8)) < pc.M;
}

uint output_at(const uint i, const uint m_first, const uint n_first, const uint b) {
    const uint n = n_first + i / (BLOCK_M / 8);
    return ((b * pc.N + n) * pc.pitch_out + m_first) / 8u + i % (BLOCK_M / 8);
}

#define SUM coopmat<float, gl_ScopeSubgroup, MATRIX_M, MATRIX_N, gl_MatrixUseAccumulator>
#define RESULT coopmat<float16_t, gl_ScopeSubgroup, MATRIX_M, MATRIX_N, gl_MatrixUseAccumulator>
#define WEIGHT coopmat<float16_t, gl_ScopeSubgroup, MATRIX_M, MATRIX_K, gl_MatrixUseA>
#define VALUES coopmat<float16_t, gl_ScopeSubgroup, MATRIX_K, MATRIX_N, gl_MatrixUseB>

void main() {
    const uvec3 block = gl_WorkGroupID + uvec3(pc.origin_x / THREADS, pc.origin_y, pc.origin_z);
    const uint m_first = block.x * BLOCK_M;
    const uint n_first = block.y * BLOCK_N;
    const uint b = block.z;
    // Of this subgroup's part of the block.
    const uint row = gl_SubgroupID / SUBGROUPS_M * (BLOCK_N / SUBGROUPS_N);
    const uint column = gl_SubgroupID % SUBGROUPS_M * (BLOCK_M / SUBGROUPS_M);

    fetch(m_first, n_first, 0u, b);
    for (uint i = gl_LocalInvocationID.x; i < BLOCK_N; i += THREADS) {
        staged_bias[i] = n_first + i < pc.N ? bias[n_first + i] : 0.0;
    }
    stage(0u);
    barrier();
    SUM sums[ROWS * COLUMNS];
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
        SUM row_bias;
        // Columns no distance apart: the bias of a row in all of its columns.
        coopMatLoad(row_bias, staged_bias, row + r * MATRIX_M, 0, gl_CooperativeMatrixLayoutColumnMajor);
        [[unroll]] for (uint c = 0; c < COLUMNS; ++c) {
            sums[r * COLUMNS + c] = row_bias;
        }
    }

    uint at = 0u;
    for (uint k_first = 0u; k_first < pc.K; k_first += BLOCK_K) {
        const bool more = k_first + BLOCK_K < pc.K;
        if (more) {
            fetch(m_first, n_first, k_first + BLOCK_K, b);
        }
        [[unroll]] for (uint k = 0; k < BLOCK_K; k += MATRIX_K) {
            WEIGHT weight[ROWS];
            [[unroll]] for (uint r = 0; r < ROWS; ++r) {
                coopMatLoad(weight[r], staged,
                            at + STAGED_INPUT + (row + r * MATRIX_M) * PITCH_K + k / 8, PITCH_K,
                            gl_CooperativeMatrixLayoutRowMajor);
            }
            [[unroll]] for (uint c = 0; c < COLUMNS; ++c) {
                VALUES values;
                coopMatLoad(values, staged, at + k * PITCH_M + (column + c * MATRIX_N) / 8, PITCH_M,
                            gl_CooperativeMatrixLayoutRowMajor);
                [[unroll]] for (uint r = 0; r < ROWS; ++r) {
                    sums[r * COLUMNS + c] = coopMatMulAdd(weight[r], values, sums[r * COLUMNS + c]);
                }
            }
        }
        at = STAGED - at;
        if (more) {
            stage(at);
        }
        barrier();
    }

    // The output, and before it the residual, lie in the stages' place.
    if (RESIDUAL) {
        for (uint i = gl_LocalInvocationID.x; i < BLOCK_VECTORS; i += THREADS) {
            staged[staged_at(i)] = within(i, m_first, n_first)
                                       ? t_residual[output_at(i, m_first, n_first, b)]
                                       : uvec4(0);
        }
        barrier();
    }
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
        [[unroll]] for (uint c = 0; c < COLUMNS; ++c) {
            SUM sum = sums[r * COLUMNS + c];
            const uint at = (row + r * MATRIX_M) * PITCH_M + (column + c * MATRIX_N) / 8;
            if (RESIDUAL) {
                RESULT residual;
                coopMatLoad(residual, staged, at, PITCH_M, gl_CooperativeMatrixLayoutRowMajor);
                sum += SUM(residual);
            }
            [[unroll]] for (int i = 0; i < sum.length(); ++i) {
                sum[i] = activate(vec4(sum[i]), pc.activation_a, pc.activation_b).x;
            }
            coopMatStore(RESULT(sum), staged, at, PITCH_M, gl_CooperativeMatrixLayoutRowMajor);
        }
    }
    barrier();
    for (uint i = gl_LocalInvocationID.x; i < BLOCK_VECTORS; i += THREADS) {
        if (within(i, m_first, n_first)) {
            t_out[output_at(i, m_first, n_first, b)] = staged[staged_at(i)];
        }
    }
}
