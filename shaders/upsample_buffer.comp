#version 450
// Each element repeated `scale` times along W and along H: nearest upsampling of tensors stored as rows.
//
// x → four positions of a row of the output, y → row.

layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint rows, M, W_out, W_in, pitch_out, pitch_in, scale;
} pc;

#include "element_read.glslh"
#include "invocation.glslh"
#include "texel.glslh"

layout(set = 0, binding = 0) restrict writeonly buffer Output {
    PACKED_VEC4 t_out[];
};

void main() {
    const uvec3 index = invocation_index();
    const uint m_first = 4u * index.x;
    if (m_first >= pc.M || index.y >= pc.rows) {
        return;
    }
    vec4 values;
    for (uint j = 0u; j < 4u; ++j) {
        const uint m = min(m_first + j, pc.M - 1u);
        const uvec2 position = uvec2(m % pc.W_out, m / pc.W_out) / pc.scale;
        values[j] = load_element(index.y * pc.pitch_in + position.y * pc.W_in + position.x);
    }
    t_out[(index.y * pc.pitch_out + m_first) / 4u] = pack_vec4(values);
}
