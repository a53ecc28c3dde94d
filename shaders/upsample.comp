#version 450
// Each position repeated `scale` times along W and along H: nearest upsampling.

layout(push_constant) uniform PushConstants {
    uint origin_x, origin_y, origin_z;
    uint planes, M, W_in, W_out, H_out;
    uint pitch_out, pitch_in;
    uint scale;
} pc;

#include "planes.glslh"
#include "plane_read.glslh"

void main() {
    if (!inside()) {
        return;
    }
    VEC values[LANES];
    for (uint lane = 0u; lane < LANES; ++lane) {
        values[lane] = load(plane(), position(lane) / pc.scale);
    }
    store(joined(values));
}
