#version 450
// Two pointwise convolutions with an activation between them, as one, between fp16 buffers on
// VK_NV_cooperative_matrix2:
//   Y[n,m] = act₂( b₂[n] + Σ_h W₂[n,h] · act₁( b₁[h] + Σ_k W₁[h,k] · X[k,m] ) (+ residual[n,m]) )
// A workgroup computes all N outputs of BLOCK_M positions. What lies between is computed BLOCK_H
// channels at a time, rounded to fp16, and taken up at once.
//
//                K                BLOCK_H                N
//            ┌───────┐  W₁ᵀ     ┌─────────┐  W₂ᵀ   ┌──────────┐
//    BLOCK_M │  Xᵀ   │ ──────→  │ hiddenᵀ │ ─────→ │  sumsᵀ   │ += one slice's products
//            └───────┘          └─────────┘        └──────────┘
//
// All matrices are transposed on their way from and to memory, positions along rows: then an
// accumulator becomes the left factor of the next product where it lies, in registers.
//
// conv2d_pw_coopmat2.comp has the layouts, and says which clamp.

#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_NV_cooperative_matrix2 : require

layout(local_size_x = THREADS, local_size_y = 1, local_size_z = 1) in;

// N and K, rounded up to what matrices may measure.
layout(constant_id = 4) const uint BLOCK_N = 64;
layout(constant_id = 5) const uint BLOCK_K = 64;
// True where K is BLOCK_K, and where M and N are whole blocks.
layout(constant_id = 6) const bool WHOLE_STEPS = false;
layout(constant_id = 7) const bool WHOLE_BLOCKS = false;
// True where a tensor of the output's shape is added before the activation; where it is false nothing
// reads t_residual, and the input is bound in its place.
layout(constant_id = 8) const bool RESIDUAL = false;
layout(constant_id = 9) const uint HIDDEN_ACTIVATION = 0;
// Of BLOCK_H channels, that make up H; and whether all of them are within H.
layout(constant_id = 10) const uint SLICES = 1;
layout(constant_id = 11) const bool WHOLE_SLICES = false;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint M, N, K, H;
    uint pitch_out, pitch_in, pitch_first, pitch_second;
    float hidden_a, hidden_b;
    float activation_a, activation_b;
} pc;

layout(set = 0, binding = 0) restrict writeonly buffer Output {
    float16_t t_out[];
};
layout(set = 0, binding = 1) restrict readonly buffer Input {
    float16_t t_in[];
};
layout(set = 0, binding = 2) restrict readonly buffer FirstWeight {
    float16_t first_rows[];
};
layout(set = 0, binding = 3) restrict readonly buffer FirstBias {
    float first_bias[];
};
layout(set = 0, binding = 4) restrict readonly buffer Residual {
    float16_t t_residual[];
};
layout(set = 0, binding = 5) restrict readonly buffer SecondWeight {
    float16_t second_rows[];
};
layout(set = 0, binding = 6) restrict readonly buffer SecondBias {
    float second_bias[];
};

#include "activation.glslh"

// Zero past H: an infinite input times the weight's zeros there is NaN, and an activation of zero may
// be anything.
float hidden_activated(const uint row, const uint column, const float sum, const uint h) {
    const float y = activate_by(HIDDEN_ACTIVATION, vec4(sum), pc.hidden_a, pc.hidden_b).x;
    return WHOLE_SLICES || h + column < pc.H ? y : 0.0;
}

float activated(const uint row, const uint column, const float sum) {
    return activate(vec4(sum), pc.activation_a, pc.activation_b).x;
}

#define ACCUMULATOR(type, columns)                                                                  \
    coopmat<type, gl_ScopeWorkgroup, BLOCK_M, columns, gl_MatrixUseAccumulator>
#define LEFT(columns) coopmat<float16_t, gl_ScopeWorkgroup, BLOCK_M, columns, gl_MatrixUseA>
#define RIGHT(rows, columns) coopmat<float16_t, gl_ScopeWorkgroup, rows, columns, gl_MatrixUseB>

#define LAYOUT(name, clamp_mode, rows, columns, pitch)                                              \
    tensorLayoutNV<2, clamp_mode> name = createTensorLayoutNV(2, clamp_mode);                       \
    name = setTensorLayoutDimensionNV(name, rows, columns);                                         \
    name = setTensorLayoutStrideNV(name, pitch, 1);

#define SLICE(name, first_row, rows, first_column, columns)                                         \
    sliceTensorLayoutNV(name, first_row, rows, first_column, columns), transposed

// Columns no distance apart: the bias of a row in all of its columns.
#define LOAD_BIAS(sums, bias, first, rows)                                                          \
    {                                                                                               \
        LAYOUT(bias_layout, gl_CooperativeMatrixClampModeUndefinedNV, first + rows, BLOCK_M, 1)     \
        bias_layout = setTensorLayoutStrideNV(bias_layout, 1, 0);                                   \
        coopMatLoadTensorNV(sums, bias, 0, SLICE(bias_layout, first, rows, 0, BLOCK_M));            \
    }

// sums += values · weightᵀ, the weight's rows n … and its columns k …
#define ADD_PRODUCTS(sums, values, weight_rows, weight_layout, n, columns, k, rows)                 \
    {                                                                                               \
        RIGHT(rows, columns) weight;                                                                \
        coopMatLoadTensorNV(weight, weight_rows, 0, SLICE(weight_layout, n, columns, k, rows));     \
        sums = coopMatMulAdd(values, weight, sums);                                                 \
    }

void main() {
    const uvec3 block = gl_WorkGroupID + uvec3(pc.origin_x / THREADS, pc.origin_y, pc.origin_z);
    const uint m_first = block.x * BLOCK_M;
    // Rows are whole 16-byte vectors; the masks tell the compiler, which then loads them as such.
    const uint pitch_first = pc.pitch_first & ~7u;
    const uint pitch_second = pc.pitch_second & ~7u;
    const uint pitch_in = pc.pitch_in & ~7u;
    const uint pitch_out = pc.pitch_out & ~7u;
    const uint first_in = (block.z * pc.K * pitch_in) & ~7u;
    const uint first_out = (block.z * pc.N * pitch_out) & ~7u;

    const uint columns_in = pitch_in + BLOCK_M;
    LAYOUT(first_layout, gl_CooperativeMatrixClampModeUndefinedNV, pc.H + BLOCK_H, pitch_first,
           pitch_first)
    LAYOUT(second_layout, gl_CooperativeMatrixClampModeUndefinedNV, BLOCK_N, pitch_second,
           pitch_second)
    LAYOUT(input_inside, gl_CooperativeMatrixClampModeUndefinedNV, pc.K, columns_in, pitch_in)
    LAYOUT(input_edge, gl_CooperativeMatrixClampModeConstantNV, pc.K, columns_in, pitch_in)
    LAYOUT(output_inside, gl_CooperativeMatrixClampModeUndefinedNV, pc.N, pc.M, pitch_out)
    LAYOUT(output_edge, gl_CooperativeMatrixClampModeConstantNV, pc.N, pc.M, pitch_out)
    const tensorViewNV<2, false, 1, 0> transposed = createTensorViewNV(2, false, 1, 0);

    LEFT(BLOCK_K) x;
    if (WHOLE_STEPS) {
        coopMatLoadTensorNV(x, t_in, first_in, SLICE(input_inside, 0, BLOCK_K, m_first, BLOCK_M));
    } else {
        coopMatLoadTensorNV(x, t_in, first_in, SLICE(input_edge, 0, BLOCK_K, m_first, BLOCK_M));
    }
    ACCUMULATOR(float, BLOCK_N) sums;
    LOAD_BIAS(sums, second_bias, 0u, BLOCK_N)
    // Left alone, NVIDIA's compiler unrolls until the code is five times as long (80 KB with GELU),
    // and the first run after another kernel takes up to 16 µs more. The few slices of a tile with
    // UNROLL, all unrolled, are half as long as that, and 3 % faster than a loop.
#ifdef UNROLL
    [[unroll]]
#else
    [[dont_unroll]]
#endif
    for (uint slice = 0u; slice < SLICES; ++slice) {
        const uint h = slice * BLOCK_H;
        ACCUMULATOR(float, BLOCK_H) hidden;
        LOAD_BIAS(hidden, first_bias, h, BLOCK_H)
        ADD_PRODUCTS(hidden, x, first_rows, first_layout, h, BLOCK_H, 0u, BLOCK_K)
        if (HIDDEN_ACTIVATION != ACTIVATION_NONE || !WHOLE_SLICES) {
            coopMatPerElementNV(hidden, hidden, hidden_activated, h);
        }
        const ACCUMULATOR(float16_t, BLOCK_H) halves = ACCUMULATOR(float16_t, BLOCK_H)(hidden);
        const LEFT(BLOCK_H) values = LEFT(BLOCK_H)(halves);
        ADD_PRODUCTS(sums, values, second_rows, second_layout, 0u, BLOCK_N, h, BLOCK_H)
    }
    if (RESIDUAL) {
        ACCUMULATOR(float16_t, BLOCK_N) residual;
        if (WHOLE_BLOCKS) {
            coopMatLoadTensorNV(residual, t_residual, first_out,
                                SLICE(output_inside, 0, BLOCK_N, m_first, BLOCK_M));
        } else {
            coopMatLoadTensorNV(residual, t_residual, first_out,
                                SLICE(output_edge, 0, BLOCK_N, m_first, BLOCK_M));
        }
        sums += ACCUMULATOR(float, BLOCK_N)(residual);
    }
    if (ACTIVATION != ACTIVATION_NONE) {
        coopMatPerElementNV(sums, sums, activated);
    }
    const ACCUMULATOR(float16_t, BLOCK_N) result = ACCUMULATOR(float16_t, BLOCK_N)(sums);
    if (WHOLE_BLOCKS || (m_first + BLOCK_M <= pc.M && BLOCK_N <= pc.N)) {
        coopMatStoreTensorNV(result, t_out, first_out,
                             SLICE(output_inside, 0, BLOCK_N, m_first, BLOCK_M));
    } else {
        coopMatStoreTensorNV(result, t_out, first_out,
                             SLICE(output_edge, 0, BLOCK_N, m_first, BLOCK_M));
    }
}
