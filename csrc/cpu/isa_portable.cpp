// Compiled with the flags of its instruction set (CMakeLists.txt): only this table may leave the unit.
#include "conv3x3.h"
#include "distance.h"
#include "noise_portable.h"
#include "saliency_tile.h"
#include "sample_hypercube.h"
#include "sample_noise.h"
#include "simd_portable.h"
#include "vote.h"
#include "vote_soft.h"

namespace rcfast::cpu {

const KernelTable portable_kernels = {"portable",
                                      &sample_hypercube_items<Portable>,
                                      &sample_noise_items<NoisePortable>,
                                      &vote_rows<Portable>,
                                      &vote_soft_rows<Portable>,
                                      &distance_points<NoisePortable>,
                                      &best_partner_score,
                                      &conv3x3_items};

}  // namespace rcfast::cpu
