// The best score between a coordinate and a run of others: the only loop of saliency_pair.cpp that meets
// pairs, written over lanes that the compiler turns into vectors.
#pragma once
#include "../core/saliency.h"
#include "kernel_table.h"

namespace rcfast::cpu {
namespace {

constexpr int kPairLanes = 16;

// The greatest score of (u_p, v_p) with count coordinates u, v; kNoScore if no pair is valid.
inline float best_partner_score(float u_p, float v_p, const float* u, const float* v, int64_t count) {
    float best[kPairLanes];
    for (int j = 0; j < kPairLanes; ++j) best[j] = core::kNoScore;
    int64_t at = 0;
    for (; at + kPairLanes <= count; at += kPairLanes)
        for (int j = 0; j < kPairLanes; ++j) {
            const float score = core::pair_score(u_p, v_p, u[at + j], v[at + j]);
            best[j] = score > best[j] ? score : best[j];
        }
    for (int j = 0; at + j < count; ++j) {
        const float score = core::pair_score(u_p, v_p, u[at + j], v[at + j]);
        best[j] = score > best[j] ? score : best[j];
    }
    float top = best[0];
    for (int j = 1; j < kPairLanes; ++j) top = best[j] > top ? best[j] : top;
    return top;
}

}  // namespace
}  // namespace rcfast::cpu
