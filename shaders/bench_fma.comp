#version 450
// Fused multiply-adds in registers, for their rate: CHAINS independent vec4s, so that the latency of
// one is covered by the others; every result is stored, so that nothing can be left out.

#extension GL_EXT_control_flow_attributes : require

#ifdef FMA_FP16
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define FMA_VEC4 f16vec4
#else
#define FMA_VEC4 vec4
#endif

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint invocations, iterations;
    float factor, addend;
} pc;

#include "invocation.glslh"

layout(set = 0, binding = 0) restrict writeonly buffer Result {
    vec4 result[];
};

void main() {
    const uint index = invocation_index().x;
    if (index >= pc.invocations) {
        return;
    }
    const FMA_VEC4 factor = FMA_VEC4(vec4(pc.factor));
    const FMA_VEC4 addend = FMA_VEC4(vec4(pc.addend));
    FMA_VEC4 chains[CHAINS];
    [[unroll]] for (int chain = 0; chain < CHAINS; ++chain) {
        chains[chain] = FMA_VEC4(vec4(float((index + chain) & 63u)) / 64.0);
    }
    for (uint i = 0u; i < pc.iterations; ++i) {
        [[unroll]] for (int step = 0; step < STEPS; ++step) {
            [[unroll]] for (int chain = 0; chain < CHAINS; ++chain) {
                chains[chain] = fma(chains[chain], factor, addend);
            }
        }
    }
    FMA_VEC4 sum = chains[0];
    [[unroll]] for (int chain = 1; chain < CHAINS; ++chain) {
        sum += chains[chain];
    }
    result[index] = vec4(sum);
}
