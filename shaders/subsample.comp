#version 450
// Every stride-th position along H and along W of tensors stored as rows. Elements are copied as they
// are, bit for bit.
//
// x → a vector of 16 bytes of a row of the output: four or, in fp16, eight positions, y → row.

#extension GL_EXT_control_flow_attributes : require

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint planes, M, W_in, W_out;
    uint pitch_out, pitch_in;
    uint stride_w, stride_h;
} pc;

#include "invocation.glslh"

#ifdef STORE_FP16
#define PER_WORD 2u
#else
#define PER_WORD 1u
#endif
#define POSITIONS (4u * PER_WORD)

layout(set = 0, binding = 0) restrict writeonly buffer Output {
    uvec4 t_out[];
};
layout(set = 0, binding = 1) restrict readonly buffer Input {
    uint t_in[];
};

uint load_bits(const uint index) {
#ifdef STORE_FP16
    return (t_in[index / 2u] >> 16u * (index % 2u)) & 0xffffu;
#else
    return t_in[index];
#endif
}

void main() {
    const uvec3 index = invocation_index();
    const uint m_first = POSITIONS * index.x;
    if (m_first >= pc.M || index.y >= pc.planes) {
        return;
    }
    uint x = m_first % pc.W_out;
    uint at = index.y * pc.pitch_in + m_first / pc.W_out * pc.stride_h * pc.W_in + x * pc.stride_w;
    // From past the last position of a line to the first of the next; it may wrap around.
    const uint next_line = pc.stride_h * pc.W_in - pc.W_out * pc.stride_w;
    uvec4 words = uvec4(0u);
    [[unroll]] for (uint j = 0u; j < POSITIONS; ++j) {
        words[j / PER_WORD] |= load_bits(at) << 16u * (j % PER_WORD);
        // Past the end of the row there is padding, which repeats the last position.
        if (m_first + j + 1u < pc.M) {
            ++x;
            at += pc.stride_w;
            if (x == pc.W_out) {
                x = 0u;
                at += next_line;
            }
        }
    }
    t_out[(index.y * pc.pitch_out + m_first) / POSITIONS] = words;
}
