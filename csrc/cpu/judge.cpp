// Which examples of a vote stop: the twin of rcfast/stopping.py, where the rules are explained and proven.
#include <cmath>

#include "../kernels.h"

namespace rcfast::cpu {
namespace {

constexpr int kStakes = 40;
constexpr double kBoldest = 0.96, kAnyLabel = 0.05;

struct Standing {  // of the two labels that matter
    int64_t leader, first, second;
    int64_t surplus;  // the most votes that the runner-up can still get without becoming the winner
};

Standing standing(const int32_t* counts, int64_t labels) {
    int64_t a = 0, b = -1;
    for (int64_t i = 1; i < labels; ++i)
        if (counts[i] > counts[a]) {
            b = a;
            a = i;
        } else if (b < 0 || counts[i] > counts[b]) {
            b = i;
        }
    const int64_t first = counts[a], second = counts[b];
    return {a, first, second, first - second - (b < a)};
}

class Test {  // the sequential one
  public:
    Test(int64_t labels, double alpha) : labels_(static_cast<double>(labels)), needed_(-std::log(alpha)) {
        double sum = 0.0;
        for (int k = 0; k < kStakes; ++k) sum += 1.0 / ((k + 1.0) * (k + 1.0));
        for (int k = 0; k < kStakes; ++k) {
            const double stake = kBoldest * std::exp2(-k / 2.0);
            weight_[k] = std::log(1.0 / ((k + 1.0) * (k + 1.0)) / sum);
            up_[k] = std::log1p(stake);
            down_[k] = std::log1p(-stake);
        }
    }

    // Whether the leader is accepted; `opening` of the first `opened` votes were its own.
    bool accepts(const Standing& s, int64_t opening, int64_t opened) {
        if (s.first <= s.second) return false;
        // Most examples of a round stand alike: what has been found is kept.
        Known& known = known_[(s.first * 31 + s.second * 7 + opening) % kKnown];
        if (known.first != s.first || known.second != s.second || known.opening != opening) {
            const double share = static_cast<double>(opening) / static_cast<double>(opened);
            const double q = (1.0 - kAnyLabel) * share + kAnyLabel / (labels_ - 1.0);
            known = {s.first, s.second, opening, std::log(q) + log_wealth(s.first - 1, s.second) >= needed_};
        }
        return known.accepted;
    }

  private:
    double log_wealth(int64_t a, int64_t b) const {
        double parts[kStakes], most = -HUGE_VAL, sum = 0.0;
        for (int k = 0; k < kStakes; ++k) {
            parts[k] = weight_[k] + static_cast<double>(a) * up_[k] + static_cast<double>(b) * down_[k];
            most = parts[k] > most ? parts[k] : most;
        }
        for (int k = 0; k < kStakes; ++k) sum += std::exp(parts[k] - most);
        return most + std::log(sum);
    }

    struct Known {
        int64_t first = -1, second = 0, opening = 0;
        bool accepted = false;
    };
    static constexpr int kKnown = 1024;
    Known known_[kKnown];
    double labels_, needed_, weight_[kStakes], up_[kStakes], down_[kStakes];
};

}  // namespace

void judge(const Judge& a) {
    Test test(a.labels, a.alpha);
    for (int64_t i = 0; i < a.active; ++i) {
        const int64_t example = a.who[i];
        int32_t* counts = a.counts + example * a.labels;
        int32_t* opening = a.opening + example * a.labels;
        State& state = a.state[i];
        state = State::goes_on;
        for (int64_t k = 0; k < a.segments && state == State::goes_on; ++k) {
            const int32_t* votes = a.votes + (i * a.segments + k) * a.labels;
            int64_t total = 0, opened = 0;
            for (int64_t label = 0; label < a.labels; ++label) {
                counts[label] += votes[label];
                total += counts[label];
                if (a.opens && k == 0) opening[label] = counts[label];
                opened += opening[label];
            }
            const int64_t reached = a.checkpoints[k];
            a.samples[example] = reached;
            if (total != reached) {
                state = State::incomplete;
                break;
            }
            const Standing s = standing(counts, a.labels);
            const bool last = reached >= a.m, settled = last || s.surplus >= a.m - reached;
            const bool proven =
                a.stop == Stop::sequential ? test.accepts(s, opening[s.leader], opened) : settled;
            a.decided[example] = proven;
            if (proven || settled) state = State::stopped;
        }
    }
}

}  // namespace rcfast::cpu
