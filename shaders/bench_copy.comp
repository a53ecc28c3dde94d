#version 450
// Streaming copy, for its rate: each invocation moves VECTORS vec4s that lie `invocations` apart, so
// that neighbours in a workgroup are neighbours in memory.

#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint invocations;
} pc;

#include "invocation.glslh"

layout(set = 0, binding = 0) restrict readonly buffer Source {
    uvec4 source[];
};
layout(set = 0, binding = 1) restrict writeonly buffer Target {
    uvec4 target[];
};

void main() {
    const uint first = invocation_index().x;
    if (first >= pc.invocations) {
        return;
    }
    uvec4 values[VECTORS];
    [[unroll]] for (uint i = 0u; i < VECTORS; ++i) {
        values[i] = source[first + i * pc.invocations];
    }
    [[unroll]] for (uint i = 0u; i < VECTORS; ++i) {
        target[first + i * pc.invocations] = values[i];
    }
}
