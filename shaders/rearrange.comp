#version 450
// Elements of the input by a strided view of it, with padding: permutation, slice, flip, pad, broadcast.
//
// The row-major number of an output's element is split into a digit for each axis of the view, the last
// the fastest; their coordinates, times strides, add up to the row-major number of an input's element.

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint planes, M, N, N4;
    uint C, C4, M_in, W_in, W_out, H_out;
    uint pitch_out, pitch_in;
    uint axes, offset, over;
    float fill;
} pc;

#include "planes.glslh"
#include "plane_elements.glslh"

struct Axis {
    uint size;
    uint stride;  // modulo 2³², as all sums are: it may be negative
    int start;
    uint extent;
    uint mode;
};

// src/pwconv/ops/rearrange.py has the same numbers.
const uint MODE_CONSTANT = 1;
const uint MODE_EDGE = 2;
const uint MODE_REFLECT = 3;
const uint MODE_WRAP = 4;

layout(set = 0, binding = 3, std430) restrict readonly buffer Axes {
    Axis t_axes[];
};

#ifdef TEXTURE3D
layout(set = 0, binding = 1) uniform texture3D t_in;
layout(set = 0, binding = 2) uniform texture3D t_over;

float load_number(const uint number) {
    const uint row = number / pc.M_in, m = number % pc.M_in;
    const uint c = row % pc.C;
    const uvec3 at = uvec3(m % pc.W_in, m / pc.W_in, row / pc.C * pc.C4 + c / 4u);
    return texelFetch(t_in, ivec3(at), 0)[c % 4u];
}

vec4 load_over() {
    return texelFetch(t_over, ivec3(invocation_index()), 0);
}
#else
#include "element_read.glslh"
layout(set = 0, binding = 2) restrict readonly buffer Over {
    PACKED_VEC4 t_over[];
};

float load_number(const uint number) {
    return load_element(number / pc.M_in * pc.pitch_in + number % pc.M_in);
}

vec4 load_over() {
    return unpack_vec4(t_over[plane() * (pc.pitch_out / 4u) + invocation_index().x]);
}
#endif

// Coordinates outside [0, extent) as others inside it. Of uints: % of negative numbers is undefined.
uint folded(const int coordinate, const uint extent, const uint mode) {
    const uint last = extent - 1u;
    if (mode == MODE_EDGE) {
        return uint(clamp(coordinate, 0, int(last)));
    }
    if (mode == MODE_REFLECT) {
        const uint from_zero = uint(abs(coordinate)) % max(2u * last, 1u);
        return min(from_zero, 2u * last - from_zero);
    }
    if (mode == MODE_WRAP) {
        return coordinate < 0 ? last - uint(-1 - coordinate) % extent : uint(coordinate) % extent;
    }
    return uint(coordinate);
}

float element(uint number, const float outside) {
    uint at = pc.offset;
    for (uint k = pc.axes; k-- > 0u;) {
        const Axis axis = t_axes[k];
        const int coordinate = axis.start + int(number % axis.size);
        number /= axis.size;
        // As a uint a negative one is past any extent.
        if (axis.mode == MODE_CONSTANT && uint(coordinate) >= axis.extent) {
            return outside;
        }
        at += axis.stride * folded(coordinate, axis.extent, axis.mode);
    }
    return load_number(at);
}

void main() {
    if (!inside()) {
        return;
    }
    vec4 outside = vec4(pc.fill);
    if (pc.over != 0u) {
        outside = load_over();
    }
    vec4 values = vec4(0.0);
    for (uint lane = 0u; lane < 4u; ++lane) {
        if (is_element(lane)) {
            values[lane] = element(element_number(lane), outside[lane]);
        }
    }
    store(values);
}
