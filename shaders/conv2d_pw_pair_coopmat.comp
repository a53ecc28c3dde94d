#version 450
// Two pointwise convolutions with an activation between them, as one, between fp16 buffers on
// VK_KHR_cooperative_matrix:
//   Y[n,m] = act₂( b₂[n] + Σ_h W₂[n,h] · act₁( b₁[h] + Σ_k W₁[h,k] · X[k,m] ) (+ residual[n,m]) )
// A workgroup computes all N outputs of BLOCK_M positions. What lies between is computed BLOCK_H
// channels at a time, rounded to fp16, and taken up at once: it never leaves the workgroup.
//
//               BLOCK_M
//             ┌──────────┐
//     BLOCK_K │  input   │               The input stays in shared memory, the sums in registers;
//             └──────────┘               while one step of BLOCK_H is multiplied, the weights of the
//   BLOCK_K   ┌──────────┐               next are on their way from memory.
//  ┌───────┐  │          │
//  │ first │  │  hidden  │ BLOCK_H       SUBGROUPS_H × SUBGROUPS_M subgroups share a step: each
//  └───────┘  └──────────┘               computes its rows and columns of what lies between, and adds
//   BLOCK_H   ┌──────────┐               their products to sums of its own over all N. In the end the
//  ┌───────┐  │          │               sums of those with the same columns are added up.
//  │second │  │   sums   │ BLOCK_N
//  └───────┘  └──────────┘
//
// K is at most BLOCK_K and N at most BLOCK_N. conv2d_pw_coopmat2.comp has the layouts. Everything is
// read and written as vectors of eight halves; weights' rows and columns, and biases, are padded with
// zeros.

#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require

layout(local_size_x = THREADS, local_size_y = 1, local_size_z = 1) in;

// A product that the device lists, and how the subgroups share a step.
layout(constant_id = 4) const uint MATRIX_M = 16;
layout(constant_id = 5) const uint MATRIX_N = 16;
layout(constant_id = 6) const uint MATRIX_K = 16;
layout(constant_id = 7) const uint SUBGROUPS_H = 2;
layout(constant_id = 8) const uint SUBGROUPS_M = 2;

// True where a tensor of the output's shape is added before the activation; where it is false nothing
// reads t_residual, and the input is bound in its place.
layout(constant_id = 9) const bool RESIDUAL = false;
layout(constant_id = 10) const uint HIDDEN_ACTIVATION = 0;

// Matrices of a subgroup: of hidden channels, of positions, and of outputs.
const uint ROWS_H = BLOCK_H / (SUBGROUPS_H * MATRIX_M);
const uint COLUMNS = BLOCK_M / (SUBGROUPS_M * MATRIX_N);
const uint ROWS_N = BLOCK_N / MATRIX_M;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint M, N, K, H;
    uint pitch_out, pitch_in, pitch_first, pitch_second;
    float hidden_a, hidden_b;
    float activation_a, activation_b;
} pc;

layout(set = 0, binding = 0) restrict writeonly buffer Output {
    uvec4 t_out[];
};
layout(set = 0, binding = 1) restrict readonly buffer Input {
    uvec4 t_in[];
};
layout(set = 0, binding = 2) restrict readonly buffer FirstWeight {
    uvec4 first_rows[];
};
layout(set = 0, binding = 3) restrict readonly buffer FirstBias {
    float first_bias[];
};
layout(set = 0, binding = 4) restrict readonly buffer Residual {
    uvec4 t_residual[];
};
layout(set = 0, binding = 5) restrict readonly buffer SecondWeight {
    uvec4 second_rows[];
};
layout(set = 0, binding = 6) restrict readonly buffer SecondBias {
    float second_bias[];
};

#include "activation.glslh"

// In vectors. A vector more than its length between rows: neighbouring rows begin in other banks.
#define PITCH_M (BLOCK_M / 8 + 1)
#define PITCH_K (BLOCK_K / 8 + 1)
#define PITCH_H (BLOCK_H / 8 + 1)

// Where in shared memory, in vectors: the input, a step of both weights, what lies between.
#define FIRST (BLOCK_K * PITCH_M)
#define SECOND (FIRST + BLOCK_H * PITCH_K)
#define HIDDEN (SECOND + BLOCK_N * PITCH_H)
#define STAGED (HIDDEN + BLOCK_H * PITCH_M)
// In the end: the sums of one set of subgroups, in fp32; then the output.
#define PITCH_SUMS (BLOCK_M / 4 + 1)
#define SUMMED (BLOCK_N * PITCH_SUMS)

shared uvec4 staged[max(STAGED, SUMMED)];
shared float staged_bias[BLOCK_H];

#define FIRST_LOADS ((BLOCK_H * BLOCK_K / 8 + THREADS - 1) / THREADS)
#define SECOND_LOADS ((BLOCK_N * BLOCK_H / 8 + THREADS - 1) / THREADS)

uvec4 fetched_first[FIRST_LOADS];
uvec4 fetched_second[SECOND_LOADS];
float fetched_bias;

// The weights of hidden channels h … h + BLOCK_H − 1.
void fetch(const uint h) {
    const uint thread = gl_LocalInvocationID.x;
    [[unroll]] for (uint load = 0; load < FIRST_LOADS; ++load) {
        const uint i = load * THREADS + thread;
        const uint row = h + i / (BLOCK_K / 8);
        const uint column = 8u * (i % (BLOCK_K / 8));
        const bool within = column < pc.pitch_first && i < BLOCK_H * BLOCK_K / 8;
        fetched_first[load] = within ? first_rows[(row * pc.pitch_first + column) / 8u] : uvec4(0);
    }
    [[unroll]] for (uint load = 0; load < SECOND_LOADS; ++load) {
        const uint i = load * THREADS + thread;
        const uint column = h + 8u * (i % (BLOCK_H / 8));
        const bool within = i < BLOCK_N * BLOCK_H / 8;
        const uint row = within ? i / (BLOCK_H / 8) : 0u;
        fetched_second[load] = second_rows[(row * pc.pitch_second + column) / 8u];
    }
    fetched_bias = thread < BLOCK_H ? first_bias[h + thread] : 0.0;
}

void stage() {
    const uint thread = gl_LocalInvocationID.x;
    [[unroll]] for (uint load = 0; load < FIRST_LOADS; ++load) {
        const uint i = load * THREADS + thread;
        if (i < BLOCK_H * BLOCK_K / 8) {
            staged[FIRST + i / (BLOCK_K / 8) * PITCH_K + i % (BLOCK_K / 8)] = fetched_first[load];
        }
    }
    [[unroll]] for (uint load = 0; load < SECOND_LOADS; ++load) {
        const uint i = load * THREADS + thread;
        if (i < BLOCK_N * BLOCK_H / 8) {
            staged[SECOND + i / (BLOCK_H / 8) * PITCH_H + i % (BLOCK_H / 8)] = fetched_second[load];
        }
    }
    if (thread < BLOCK_H) {
        staged_bias[thread] = fetched_bias;
    }
}

void stage_input(const uint m_first, const uint b) {
    for (uint i = gl_LocalInvocationID.x; i < BLOCK_K * BLOCK_M / 8; i += THREADS) {
        const uint k = i / (BLOCK_M / 8);
        // Past the end of the row, its last vector: such outputs are not stored.
        const uint m = min(m_first + 8u * (i % (BLOCK_M / 8)), pc.pitch_in - 8u);
        const bool within = k < pc.K;
        const uvec4 values = t_in[((b * pc.K + (within ? k : 0u)) * pc.pitch_in + m) / 8u];
        staged[k * PITCH_M + i % (BLOCK_M / 8)] = within ? values : uvec4(0);
    }
}

void subgroup_barrier() {
    controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, gl_StorageSemanticsShared,
                   gl_SemanticsAcquireRelease);
}

// Of what lies between, a subgroup's part at (row, column), of which rows from h + row on are staged.
// An infinite input times the weight's zeros past H is NaN, and an activation of zero may be anything.
void clear_past_H(const uint h, const uint row, const uint column) {
    const uint vectors = BLOCK_M / SUBGROUPS_M / 8;
    for (uint i = gl_SubgroupInvocationID; i < BLOCK_H / SUBGROUPS_H * vectors; i += gl_SubgroupSize) {
        const uint r = row + i / vectors;
        if (h + r >= pc.H) {
            staged[HIDDEN + r * PITCH_M + column / 8 + i % vectors] = uvec4(0);
        }
    }
}

// Vector i of a block of the output: where it is staged, whether it is within M and N, and where in
// the tensor it lies.
#define BLOCK_VECTORS (BLOCK_N * BLOCK_M / 8)

uint staged_at(const uint i) {
    return i / (BLOCK_M / 8) * PITCH_M + i % (BLOCK_M / 8);
}

bool within(const uint i, const uint m_first) {
    return i / (BLOCK_M / 8) < pc.N && m_first + 8u * (i % (BLOCK_M / 8)) < pc.M;
}

uint output_at(const uint i, const uint m_first, const uint b) {
    return ((b * pc.N + i / (BLOCK_M / 8)) * pc.pitch_out + m_first) / 8u + i % (BLOCK_M / 8);
}

#define SUM coopmat<float, gl_ScopeSubgroup, MATRIX_M, MATRIX_N, gl_MatrixUseAccumulator>
#define HALVES coopmat<float16_t, gl_ScopeSubgroup, MATRIX_M, MATRIX_N, gl_MatrixUseAccumulator>
#define WEIGHT coopmat<float16_t, gl_ScopeSubgroup, MATRIX_M, MATRIX_K, gl_MatrixUseA>
#define VALUES coopmat<float16_t, gl_ScopeSubgroup, MATRIX_K, MATRIX_N, gl_MatrixUseB>

void main() {
    const uvec3 block = gl_WorkGroupID + uvec3(pc.origin_x / THREADS, pc.origin_y, pc.origin_z);
    const uint m_first = block.x * BLOCK_M;
    const uint b = block.z;
    // Of this subgroup's part of a step.
    const uint part = gl_SubgroupID / SUBGROUPS_M;
    const uint row = part * (BLOCK_H / SUBGROUPS_H);
    const uint column = gl_SubgroupID % SUBGROUPS_M * (BLOCK_M / SUBGROUPS_M);

    fetch(0u);
    stage_input(m_first, b);
    stage();
    SUM sums[ROWS_N * COLUMNS];
    [[unroll]] for (uint r = 0; r < ROWS_N; ++r) {
        SUM bias = SUM(0.0);
        if (part == 0u) {
            // Columns no distance apart: the bias of a row in all of its columns.
            coopMatLoad(bias, second_bias, r * MATRIX_M, 0, gl_CooperativeMatrixLayoutColumnMajor);
        }
        [[unroll]] for (uint c = 0; c < COLUMNS; ++c) {
            sums[r * COLUMNS + c] = bias;
        }
    }
    barrier();

    for (uint h = 0u; h < pc.H; h += BLOCK_H) {
        const bool more = h + BLOCK_H < pc.H;
        if (more) {
            fetch(h + BLOCK_H);
        }
        SUM hidden[ROWS_H * COLUMNS];
        [[unroll]] for (uint r = 0; r < ROWS_H; ++r) {
            SUM bias;
            coopMatLoad(bias, staged_bias, row + r * MATRIX_M, 0,
                        gl_CooperativeMatrixLayoutColumnMajor);
            [[unroll]] for (uint c = 0; c < COLUMNS; ++c) {
                hidden[r * COLUMNS + c] = bias;
            }
        }
        [[unroll]] for (uint k = 0; k < BLOCK_K; k += MATRIX_K) {
            WEIGHT weight[ROWS_H];
            [[unroll]] for (uint r = 0; r < ROWS_H; ++r) {
                coopMatLoad(weight[r], staged, FIRST + (row + r * MATRIX_M) * PITCH_K + k / 8,
                            PITCH_K, gl_CooperativeMatrixLayoutRowMajor);
            }
            [[unroll]] for (uint c = 0; c < COLUMNS; ++c) {
                VALUES values;
                coopMatLoad(values, staged, k * PITCH_M + (column + c * MATRIX_N) / 8, PITCH_M,
                            gl_CooperativeMatrixLayoutRowMajor);
                [[unroll]] for (uint r = 0; r < ROWS_H; ++r) {
                    hidden[r * COLUMNS + c] =
                        coopMatMulAdd(weight[r], values, hidden[r * COLUMNS + c]);
                }
            }
        }
        // Through shared memory, an accumulator becomes a factor.
        [[unroll]] for (uint r = 0; r < ROWS_H; ++r) {
            [[unroll]] for (uint c = 0; c < COLUMNS; ++c) {
                SUM sum = hidden[r * COLUMNS + c];
                [[unroll]] for (int i = 0; i < sum.length(); ++i) {
                    sum[i] = activate_by(HIDDEN_ACTIVATION, vec4(sum[i]), pc.hidden_a, pc.hidden_b).x;
                }
                coopMatStore(HALVES(sum), staged,
                             HIDDEN + (row + r * MATRIX_M) * PITCH_M + (column + c * MATRIX_N) / 8,
                             PITCH_M, gl_CooperativeMatrixLayoutRowMajor);
            }
        }
        subgroup_barrier();
        // Asked of the whole step, not of the subgroup's part: where only some subgroups come to a
        // barrier of theirs, lavapipe has the others' results wrong.
        if (h + BLOCK_H > pc.H) {
            clear_past_H(h, row, column);
            subgroup_barrier();
        }
        [[unroll]] for (uint k = 0; k < BLOCK_H / SUBGROUPS_H; k += MATRIX_K) {
            VALUES values[COLUMNS];
            [[unroll]] for (uint c = 0; c < COLUMNS; ++c) {
                coopMatLoad(values[c], staged,
                            HIDDEN + (row + k) * PITCH_M + (column + c * MATRIX_N) / 8, PITCH_M,
                            gl_CooperativeMatrixLayoutRowMajor);
            }
            [[unroll]] for (uint r = 0; r < ROWS_N; ++r) {
                WEIGHT weight;
                coopMatLoad(weight, staged, SECOND + r * MATRIX_M * PITCH_H + (row + k) / 8, PITCH_H,
                            gl_CooperativeMatrixLayoutRowMajor);
                [[unroll]] for (uint c = 0; c < COLUMNS; ++c) {
                    sums[r * COLUMNS + c] = coopMatMulAdd(weight, values[c], sums[r * COLUMNS + c]);
                }
            }
        }
        barrier();
        if (more) {
            stage();
            barrier();
        }
    }

    [[unroll]] for (uint other = 1u; other < SUBGROUPS_H; ++other) {
        if (part == other) {
            [[unroll]] for (uint i = 0; i < ROWS_N * COLUMNS; ++i) {
                coopMatStore(sums[i], staged,
                             i / COLUMNS * MATRIX_M * PITCH_SUMS +
                                 (column + i % COLUMNS * MATRIX_N) / 4,
                             PITCH_SUMS, gl_CooperativeMatrixLayoutRowMajor);
            }
        }
        barrier();
        if (part == 0u) {
            [[unroll]] for (uint i = 0; i < ROWS_N * COLUMNS; ++i) {
                SUM sum;
                coopMatLoad(sum, staged,
                            i / COLUMNS * MATRIX_M * PITCH_SUMS +
                                (column + i % COLUMNS * MATRIX_N) / 4,
                            PITCH_SUMS, gl_CooperativeMatrixLayoutRowMajor);
                sums[i] += sum;
            }
        }
        barrier();
    }

    // The output, and before it the residual, lie in the stages' place.
    if (RESIDUAL) {
        for (uint i = gl_LocalInvocationID.x; i < BLOCK_VECTORS; i += THREADS) {
            staged[staged_at(i)] =
                within(i, m_first) ? t_residual[output_at(i, m_first, b)] : uvec4(0);
        }
        barrier();
    }
    if (part == 0u) {
        [[unroll]] for (uint r = 0; r < ROWS_N; ++r) {
            [[unroll]] for (uint c = 0; c < COLUMNS; ++c) {
                SUM sum = sums[r * COLUMNS + c];
                const uint at = r * MATRIX_M * PITCH_M + (column + c * MATRIX_N) / 8;
                if (RESIDUAL) {
                    HALVES residual;
                    coopMatLoad(residual, staged, at, PITCH_M, gl_CooperativeMatrixLayoutRowMajor);
                    sum += SUM(residual);
                }
                [[unroll]] for (int i = 0; i < sum.length(); ++i) {
                    sum[i] = activate(vec4(sum[i]), pc.activation_a, pc.activation_b).x;
                }
                coopMatStore(HALVES(sum), staged, at, PITCH_M, gl_CooperativeMatrixLayoutRowMajor);
            }
        }
    }
    barrier();
    for (uint i = gl_LocalInvocationID.x; i < BLOCK_VECTORS; i += THREADS) {
        if (within(i, m_first)) {
            t_out[output_at(i, m_first, b)] = staged[staged_at(i)];
        }
    }
}
