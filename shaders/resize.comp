#version 450
// Positions between others, along H and W: nearest or bilinear resizing by a table that the host made.

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint planes, M, W_in, W_out, H_out;
    uint pitch_out, pitch_in;
} pc;

#include "planes.glslh"
#include "plane_read.glslh"

struct Tap {
    uint first, second;
    float weight;  // of the second
};

// One for each row of the output, then one for each column.
layout(set = 0, binding = 2, std430) restrict readonly buffer Taps {
    Tap t_taps[];
};

VEC load_between(const uint from, const uint y, const Tap column) {
    const VEC first = load(from, uvec2(column.first, y));
    // Not a product with zero: what is left out may be infinite or NaN.
    if (column.weight == 0.0) {
        return first;
    }
    const VEC second = load(from, uvec2(column.second, y));
    return (1.0 - column.weight) * first + column.weight * second;
}

VEC value_at(const uvec2 at) {
    const Tap row = t_taps[at.y], column = t_taps[pc.H_out + at.x];
    const VEC first = load_between(plane(), row.first, column);
    if (row.weight == 0.0) {
        return first;
    }
    const VEC second = load_between(plane(), row.second, column);
    return (1.0 - row.weight) * first + row.weight * second;
}

void main() {
    if (!inside()) {
        return;
    }
    VEC values[LANES];
    for (uint lane = 0u; lane < LANES; ++lane) {
        values[lane] = value_at(position(lane));
    }
    store(joined(values));
}
