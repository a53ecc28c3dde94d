#version 450
// Rows of fp32, fp16 or bytes from one linear buffer to another, as fp32 or fp16: a chunk of an NCHW
// array between staging and a tensor stored as a buffer, or the rows of one tensor to another.
//
//   source   [rows][source_pitch], of which `positions` elements a row, from source_first
//   target   [rows][target_pitch], from target_first
//
// One invocation a 32-bit word of the target: x → word, y → row. Pitches and firsts are even, so no
// two invocations write into one word.

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint rows, positions;
    uint source_first, source_pitch;
    uint target_first, target_pitch;
} pc;

#include "half_bits.glslh"
#include "invocation.glslh"
#include "staging_read.glslh"

layout(set = 0, binding = 1) restrict writeonly buffer Target {
    uint target[];
};

void main() {
    const uvec3 index = invocation_index();
    const uint position = index.x * POSITIONS_PER_WORD;
    if (position >= pc.positions || index.y >= pc.rows) {
        return;
    }
    const uint source = pc.source_first + index.y * pc.source_pitch + position;
    const uint word =
        (pc.target_first + index.y * pc.target_pitch + position) / POSITIONS_PER_WORD;
#if POSITIONS_PER_WORD == 2
    // Rows are padded: the element past an odd end exists, and nobody reads it.
    target[word] = half_bits(vec2(load_element(source), load_element(source + 1u)));
#else
    target[word] = floatBitsToUint(load_element(source));
#endif
}
