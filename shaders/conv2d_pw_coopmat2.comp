#version 450
// Pointwise convolution between fp16 buffers on VK_NV_cooperative_matrix2: Y = W·X by blocks of
// BLOCK_N output channels × BLOCK_M positions, one a workgroup.
//
//   weight_rows   [N][pitch_weight]     t_in   [batches·K][pitch_in]     t_out   [batches·N][pitch_out]
//
// A tensor layout that clamps reads zero past its edge, and takes twice the time of one that does not.
// So the weight's rows and columns, and the bias, are padded with zeros to whole blocks; positions past
// M are read from whatever follows, since they only reach outputs past M; and layouts clamp where they
// must: the input past K, in the last step, and the output past M and N.

#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_NV_cooperative_matrix2 : require

layout(local_size_x = THREADS, local_size_y = 1, local_size_z = 1) in;

// True where K is a multiple of BLOCK_K, and where M and N are of BLOCK_M and BLOCK_N.
layout(constant_id = 4) const bool WHOLE_STEPS = false;
layout(constant_id = 5) const bool WHOLE_BLOCKS = false;
// How often BLOCK_K goes into K: the loop is then unrolled, and loads run ahead of products. 0 where
// that is too often.
layout(constant_id = 6) const uint STEPS = 0;
// True where a tensor of the output's shape is added before the activation; where it is false nothing
// reads t_residual, and the input is bound in its place.
layout(constant_id = 7) const bool RESIDUAL = false;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint M, N, K;
    uint pitch_out, pitch_in, pitch_weight;
    float activation_a, activation_b;
} pc;

layout(set = 0, binding = 0) restrict writeonly buffer Output {
    float16_t t_out[];
};
layout(set = 0, binding = 1) restrict readonly buffer Input {
    float16_t t_in[];
};
layout(set = 0, binding = 2) restrict readonly buffer Weight {
    float16_t weight_rows[];
};
layout(set = 0, binding = 3) restrict readonly buffer Bias {
    float bias[];
};
layout(set = 0, binding = 4) restrict readonly buffer Residual {
    float16_t t_residual[];
};

#include "activation.glslh"

float activated(const uint row, const uint column, const float sum) {
    return activate(vec4(sum), pc.activation_a, pc.activation_b).x;
}

#define SUMS coopmat<float, gl_ScopeWorkgroup, BLOCK_N, BLOCK_M, gl_MatrixUseAccumulator>
#define HALVES coopmat<float16_t, gl_ScopeWorkgroup, BLOCK_N, BLOCK_M, gl_MatrixUseAccumulator>

// One step of BLOCK_K along K.
#define MULTIPLY_STEP(input_layout)                                                                 \
    {                                                                                               \
        coopmat<float16_t, gl_ScopeWorkgroup, BLOCK_N, BLOCK_K, gl_MatrixUseA> weight;              \
        coopmat<float16_t, gl_ScopeWorkgroup, BLOCK_K, BLOCK_M, gl_MatrixUseB> values;              \
        coopMatLoadTensorNV(weight, weight_rows, 0,                                                 \
                            sliceTensorLayoutNV(weight_layout, n_first, BLOCK_N, k, BLOCK_K));      \
        coopMatLoadTensorNV(values, t_in, first_in,                                                 \
                            sliceTensorLayoutNV(input_layout, k, BLOCK_K, m_first, BLOCK_M));       \
        sums = coopMatMulAdd(weight, values, sums);                                                 \
    }

#define LAYOUT(name, clamp_mode, rows, columns, pitch)                                              \
    tensorLayoutNV<2, clamp_mode> name = createTensorLayoutNV(2, clamp_mode);                       \
    name = setTensorLayoutDimensionNV(name, rows, columns);                                         \
    name = setTensorLayoutStrideNV(name, pitch, 1);

void main() {
    const uvec3 block = gl_WorkGroupID + uvec3(pc.origin_x / THREADS, pc.origin_y, pc.origin_z);
    const uint m_first = block.x * BLOCK_M;
    const uint n_first = block.y * BLOCK_N;
    // Rows are whole 16-byte vectors; the masks tell the compiler, which then loads them as such.
    const uint pitch_weight = pc.pitch_weight & ~7u;
    const uint pitch_in = pc.pitch_in & ~7u;
    const uint pitch_out = pc.pitch_out & ~7u;
    const uint first_in = (block.z * pc.K * pitch_in) & ~7u;
    const uint first_out = (block.z * pc.N * pitch_out) & ~7u;

    const uint columns_in = pitch_in + BLOCK_M;
    LAYOUT(weight_layout, gl_CooperativeMatrixClampModeUndefinedNV, pc.N + BLOCK_N, pitch_weight,
           pitch_weight)
    LAYOUT(input_inside, gl_CooperativeMatrixClampModeUndefinedNV, pc.K, columns_in, pitch_in)
    LAYOUT(input_edge, gl_CooperativeMatrixClampModeConstantNV, pc.K, columns_in, pitch_in)
    LAYOUT(output_inside, gl_CooperativeMatrixClampModeUndefinedNV, pc.N, pc.M, pitch_out)
    LAYOUT(output_edge, gl_CooperativeMatrixClampModeConstantNV, pc.N, pc.M, pitch_out)

    // Columns no distance apart: the bias of a row in all of its columns.
    LAYOUT(bias_layout, gl_CooperativeMatrixClampModeUndefinedNV, pc.N + BLOCK_N, BLOCK_M, 1)
    bias_layout = setTensorLayoutStrideNV(bias_layout, 1, 0);
    SUMS sums;
    coopMatLoadTensorNV(sums, bias, 0,
                        sliceTensorLayoutNV(bias_layout, n_first, BLOCK_N, 0, BLOCK_M));

    uint k = 0u;
    [[unroll]] for (uint step = 0u; step < STEPS; ++step) {
        MULTIPLY_STEP(input_inside)
        k += BLOCK_K;
    }
    if (STEPS == 0u) {
        for (; k + BLOCK_K <= pc.K; k += BLOCK_K) {
            MULTIPLY_STEP(input_inside)
        }
    }
    if (!WHOLE_STEPS && k < pc.K) {
        MULTIPLY_STEP(input_edge)
    }
    if (RESIDUAL) {
        HALVES residual;
        if (WHOLE_BLOCKS) {
            coopMatLoadTensorNV(
                residual, t_residual, first_out,
                sliceTensorLayoutNV(output_inside, n_first, BLOCK_N, m_first, BLOCK_M));
        } else {
            coopMatLoadTensorNV(residual, t_residual, first_out,
                                sliceTensorLayoutNV(output_edge, n_first, BLOCK_N, m_first, BLOCK_M));
        }
        sums += SUMS(residual);
    }
    if (ACTIVATION != ACTIVATION_NONE) {
        coopMatPerElementNV(sums, sums, activated);
    }
    const HALVES result = HALVES(sums);
    if (WHOLE_BLOCKS || (m_first + BLOCK_M <= pc.M && n_first + BLOCK_N <= pc.N)) {
        coopMatStoreTensorNV(result, t_out, first_out,
                             sliceTensorLayoutNV(output_inside, n_first, BLOCK_N, m_first, BLOCK_M));
    } else {
        coopMatStoreTensorNV(result, t_out, first_out,
                             sliceTensorLayoutNV(output_edge, n_first, BLOCK_N, m_first, BLOCK_M));
    }
}
