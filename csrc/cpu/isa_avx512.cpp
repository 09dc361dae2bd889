// Compiled with the flags of its instruction set (CMakeLists.txt): only this table may leave the unit.
#include "conv3x3.h"
#include "distance.h"
#include "noise_avx512.h"
#include "saliency_tile.h"
#include "sample_hypercube.h"
#include "sample_noise.h"
#include "simd_avx512.h"
#include "vote.h"
#include "vote_soft.h"

namespace rcfast::cpu {

const KernelTable avx512_kernels = {"avx512",
                                    &sample_hypercube_items<Avx512>,
                                    &sample_noise_items<NoiseAvx512>,
                                    &vote_rows<Avx512>,
                                    &vote_soft_rows<Avx512>,
                                    &distance_points<NoiseAvx512>,
                                    &best_partner_score,
                                    &conv3x3_items};

}  // namespace rcfast::cpu
