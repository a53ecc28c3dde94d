#version 450
// Products of matrices in registers, on the device's matrix units: CHAINS sums a subgroup, STEPS
// products each a round. The factors come from a push constant, so that nothing is known beforehand.

#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_EXT_shader_explicit_arithmetic_types : require
#ifdef BFLOAT16
#extension GL_EXT_bfloat16 : require
#endif

layout(local_size_x = 128, local_size_y = 1, local_size_z = 1) in;

layout(constant_id = 4) const uint MATRIX_M = 16;
layout(constant_id = 5) const uint MATRIX_N = 16;
layout(constant_id = 6) const uint MATRIX_K = 16;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint iterations;
    float factor;
} pc;

layout(set = 0, binding = 0) restrict writeonly buffer Result {
    float result[];
};

#define SUM coopmat<ACCUMULATOR, gl_ScopeSubgroup, MATRIX_M, MATRIX_N, gl_MatrixUseAccumulator>

void main() {
    const coopmat<OPERAND, gl_ScopeSubgroup, MATRIX_M, MATRIX_K, gl_MatrixUseA> a =
        coopmat<OPERAND, gl_ScopeSubgroup, MATRIX_M, MATRIX_K, gl_MatrixUseA>(OPERAND(pc.factor));
    const coopmat<OPERAND, gl_ScopeSubgroup, MATRIX_K, MATRIX_N, gl_MatrixUseB> b =
        coopmat<OPERAND, gl_ScopeSubgroup, MATRIX_K, MATRIX_N, gl_MatrixUseB>(OPERAND(pc.factor));
    SUM sums[CHAINS];
    for (int chain = 0; chain < CHAINS; ++chain) {
        sums[chain] = SUM(ACCUMULATOR(chain));
    }
    for (uint i = 0; i < pc.iterations; ++i) {
        for (int step = 0; step < STEPS; ++step) {
            for (int chain = 0; chain < CHAINS; ++chain) {
                sums[chain] = coopMatMulAdd(a, b, sums[chain]);
            }
        }
    }
    float total = 0.0;
    for (int chain = 0; chain < CHAINS; ++chain) {
        for (int i = 0; i < sums[chain].length(); ++i) {
            total += float(sums[chain][i]);
        }
    }
    result[gl_GlobalInvocationID.x + pc.origin_x] = total;
}
