// Compiled with the flags of its instruction set (CMakeLists.txt): only this table may leave the unit.
#include "conv3x3.h"
#include "distance.h"
#include "noise_avx2.h"
#include "saliency_tile.h"
#include "sample_hypercube.h"
#include "sample_noise.h"
#include "simd_avx2.h"
#include "vote.h"
#include "vote_soft.h"

namespace rcfast::cpu {

const KernelTable avx2_kernels = {"avx2",
                                  &sample_hypercube_items<Avx2>,
                                  &sample_noise_items<NoiseAvx2>,
                                  &vote_rows<Avx2>,
                                  &vote_soft_rows<Avx2>,
                                  &distance_points<NoiseAvx2>,
                                  &best_partner_score,
                                  &conv3x3_items};

}  // namespace rcfast::cpu
