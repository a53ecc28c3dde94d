#version 450
// Pointwise convolution between fp16 buffers on VK_NV_cooperative_matrix2: Y = W·X by blocks of
// BLOCK_N output channels × BLOCK_M positions, one a workgroup. The tensor layouts carry the edges:
// what lies past K, N or M is read as zero and not written.
//
//   weight_rows   [N][pitch_weight]     t_in   [batches·K][pitch_in]     t_out   [batches·N][pitch_out]

#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_NV_cooperative_matrix2 : require

layout(local_size_x = THREADS, local_size_y = 1, local_size_z = 1) in;

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

#include "activation.glslh"

float epilogue(const uint row, const uint column, const float accumulated, const uint n_first) {
    const float y = accumulated + bias[min(n_first + row, pc.N - 1u)];
    return activate(vec4(y), pc.activation_a, pc.activation_b).x;
}

#define SUMS coopmat<float, gl_ScopeWorkgroup, BLOCK_N, BLOCK_M, gl_MatrixUseAccumulator>
#define HALVES coopmat<float16_t, gl_ScopeWorkgroup, BLOCK_N, BLOCK_M, gl_MatrixUseAccumulator>

// One step of BLOCK_K along K. A layout that clamps reads zero past its edge, and takes twice the time
// of one that leaves what is past it undefined: that one is for blocks with nothing past the edge.
#define MULTIPLY_STEP(weight_layout, input_layout)                                                  \
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

    LAYOUT(weight_inside, gl_CooperativeMatrixClampModeUndefinedNV, pc.N, pc.K, pitch_weight)
    LAYOUT(weight_edge, gl_CooperativeMatrixClampModeConstantNV, pc.N, pc.K, pitch_weight)
    LAYOUT(input_inside, gl_CooperativeMatrixClampModeUndefinedNV, pc.K, pc.M, pitch_in)
    LAYOUT(input_edge, gl_CooperativeMatrixClampModeConstantNV, pc.K, pc.M, pitch_in)
    LAYOUT(output_inside, gl_CooperativeMatrixClampModeUndefinedNV, pc.N, pc.M, pitch_out)
    LAYOUT(output_edge, gl_CooperativeMatrixClampModeConstantNV, pc.N, pc.M, pitch_out)

    const bool inside = m_first + BLOCK_M <= pc.M && n_first + BLOCK_N <= pc.N;
    SUMS sums = SUMS(0.0);
    uint k = 0u;
    if (inside) {
        for (; k + BLOCK_K <= pc.K; k += BLOCK_K) {
            MULTIPLY_STEP(weight_inside, input_inside)
        }
    }
    for (; k < pc.K; k += BLOCK_K) {
        MULTIPLY_STEP(weight_edge, input_edge)
    }
    coopMatPerElementNV(sums, sums, epilogue, n_first);
    const HALVES result = HALVES(sums);
    if (inside) {
        coopMatStoreTensorNV(result, t_out, first_out,
                             sliceTensorLayoutNV(output_inside, n_first, BLOCK_N, m_first, BLOCK_M));
    } else {
        coopMatStoreTensorNV(result, t_out, first_out,
                             sliceTensorLayoutNV(output_edge, n_first, BLOCK_N, m_first, BLOCK_M));
    }
}
