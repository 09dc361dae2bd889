// The argmax rule: the greatest logit, ties to the lowest label; a NaN anywhere makes a row invalid.
#pragma once
#include "config.h"

namespace rcfast::core {
namespace {

constexpr float kLowest = -__builtin_inff();

struct Leader {
    float value;
    int32_t label;  // of value; kNobody before the first logit
    int32_t nan;
};
constexpr int32_t kNobody = 0x7FFFFFFF;

RCFAST_HD Leader nobody() { return {kLowest, kNobody, 0}; }

RCFAST_HD Leader better(Leader a, Leader b) {
    const bool second = b.value > a.value || (b.value == a.value && b.label < a.label);
    return {second ? b.value : a.value, second ? b.label : a.label, a.nan | b.nan};
}

RCFAST_HD Leader consider(Leader leader, float logit, int32_t label) {
    return better(leader, Leader{logit, label, logit != logit});
}

}  // namespace
}  // namespace rcfast::core
