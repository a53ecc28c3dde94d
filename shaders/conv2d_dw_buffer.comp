#version 450
// Depthwise convolution between tensors stored as rows: each channel by a kernel of its own,
// KERNEL_H × KERNEL_W, in fp32.
//
//   weight   [C4][KERNEL_H·KERNEL_W] vec4s of fp32: a tap of four channels
//
// x → four positions of a row of the output, y → row.

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(constant_id = 4) const int KERNEL_W = 3;
layout(constant_id = 5) const int KERNEL_H = 3;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint rows, M, N, W_out, pitch_out, pitch_in;
    int W_in, H_in;
    int stride_w, stride_h, pad_w, pad_h;
    float activation_a, activation_b;
} pc;

#include "activation.glslh"
#include "element_read.glslh"
#include "invocation.glslh"
#include "texel.glslh"

layout(set = 0, binding = 0) restrict writeonly buffer Output {
    PACKED_VEC4 t_out[];
};
layout(set = 0, binding = 2) restrict readonly buffer Weight {
    float weight[];
};
layout(set = 0, binding = 3) restrict readonly buffer Bias {
    float bias[];
};

float convolve(const uint row, const uint c, const uint m) {
    const ivec2 first = ivec2(m % pc.W_out, m / pc.W_out) * ivec2(pc.stride_w, pc.stride_h) -
                        ivec2(pc.pad_w, pc.pad_h);
    uint tap = c / 4u * uint(KERNEL_H * KERNEL_W) * 4u + c % 4u;
    float sum = 0.0;
    for (int dy = 0; dy < KERNEL_H; ++dy) {
        for (int dx = 0; dx < KERNEL_W; ++dx) {
            const ivec2 position = first + ivec2(dx, dy);
            // Padding is zeros, not taps that are left out: times an infinite weight they are NaN.
            float x = 0.0;
            if (all(greaterThanEqual(position, ivec2(0))) &&
                all(lessThan(position, ivec2(pc.W_in, pc.H_in)))) {
                x = load_element(row * pc.pitch_in + uint(position.y * pc.W_in + position.x));
            }
            sum = fma(x, weight[tap], sum);
            tap += 4u;
        }
    }
    return sum;
}

void main() {
    const uvec3 index = invocation_index();
    const uint m_first = 4u * index.x;
    if (m_first >= pc.M || index.y >= pc.rows) {
        return;
    }
    const uint c = index.y % pc.N;
    vec4 sums;
    for (uint j = 0u; j < 4u; ++j) {
        sums[j] = convolve(index.y, c, min(m_first + j, pc.M - 1u));
    }
    const vec4 y = activate(sums + bias[c], pc.activation_a, pc.activation_b);
    t_out[(index.y * pc.pitch_out + m_first) / 4u] = pack_vec4(y);
}
