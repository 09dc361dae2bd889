// The exact search over all pairs without looking at all of them. Coordinates that cannot be part of a pair
// as good as one already known are dropped; the rest is sorted by u and cut into blocks, and two blocks meet
// only if their upper corners could give a better score. A second pass finds the lowest pair that has the
// best score.
#include <algorithm>
#include <limits>
#include <vector>

#include "../core/saliency.h"
#include "kernel_table.h"
#include "threads.h"

namespace rcfast::cpu {
namespace {

using core::kNoScore;
using core::pair_score;

constexpr int64_t kBlock = 64;
constexpr int kClimbs = 3;  // from each seed, to the best partner and on to its best partner

struct Pair {
    int64_t p = -1, q = -1;
};

struct Candidates {  // by coordinate at first, by falling u once sorted
    std::vector<float> u, v;
    std::vector<int64_t> index;

    int64_t size() const { return static_cast<int64_t>(u.size()); }
    void push(float a, float b, int64_t i) {
        u.push_back(a);
        v.push_back(b);
        index.push_back(i);
    }
};

struct Block {
    int64_t begin, end;
    float u, v;      // upper corner
    int64_t lowest;  // index
};

Candidates choose_free(const SaliencyPair& a, int64_t example) {
    Candidates all;
    const int64_t first = example * a.n;
    for (int64_t i = 0; i < a.n; ++i) {
        const core::Slopes s = core::slopes(a.a[first + i], a.b[first + i], a.free[first + i], a.down);
        if (s.u != core::kNotFree) all.push(s.u, s.v, i);
    }
    return all;
}

class Search {
  public:
    Search(Candidates candidates, const KernelTable& table) : c_(std::move(candidates)), table_(table) {}

    Pair run() {
        if (c_.size() < 2) return {};
        for (int round = 0; round < 2; ++round) {
            climb();
            drop();
            if (c_.size() < 2) return {};
        }
        sort();
        cut();
        find_score();
        return best_ < 0.0f ? Pair{} : lowest_pair();
    }

  private:
    float partner_score(int64_t p, int64_t begin, int64_t end) const {
        return table_.best_partner_score(c_.u[p], c_.v[p], c_.u.data() + begin, c_.v.data() + begin,
                                         end - begin);
    }

    // A good score early drops most coordinates.
    void climb() {
        const int64_t n = c_.size();
        const auto top = [&](auto value) {
            int64_t at = 0;
            for (int64_t i = 1; i < n; ++i)
                if (value(i) > value(at)) at = i;
            return at;
        };
        const int64_t far_u = top([&](int64_t i) { return c_.u[i]; });
        const int64_t far_v = top([&](int64_t i) { return c_.v[i]; });
        const int64_t both = top([&](int64_t i) { return pair_score(c_.u[i], c_.v[i], c_.u[i], c_.v[i]); });
        for (int64_t p : {far_u, far_v, both})
            for (int step = 0; step < kClimbs; ++step) {
                const float score = std::max(partner_score(p, 0, p), partner_score(p, p + 1, n));
                if (score < 0.0f) break;
                best_ = std::max(best_, score);
                for (int64_t q = 0; q < n; ++q)
                    if (q != p && pair_score(c_.u[p], c_.v[p], c_.u[q], c_.v[q]) == score) {
                        p = q;
                        break;
                    }
            }
    }

    void drop() {
        const float u = *std::max_element(c_.u.begin(), c_.u.end());
        const float v = *std::max_element(c_.v.begin(), c_.v.end());
        Candidates kept;
        for (int64_t i = 0; i < c_.size(); ++i) {
            const float bound = pair_score(c_.u[i], c_.v[i], u, v);
            if (bound >= 0.0f && bound >= best_) kept.push(c_.u[i], c_.v[i], c_.index[i]);
        }
        c_ = std::move(kept);
    }

    void sort() {
        std::vector<int64_t> order(c_.u.size());
        for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
        std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return c_.u[i] > c_.u[j]; });
        Candidates sorted;
        for (const int64_t i : order) sorted.push(c_.u[i], c_.v[i], c_.index[i]);
        c_ = std::move(sorted);
    }

    void cut() {
        for (int64_t begin = 0; begin < c_.size(); begin += kBlock) {
            const int64_t end = std::min(begin + kBlock, c_.size());
            blocks_.push_back({begin, end, *std::max_element(c_.u.begin() + begin, c_.u.begin() + end),
                               *std::max_element(c_.v.begin() + begin, c_.v.begin() + end),
                               *std::min_element(c_.index.begin() + begin, c_.index.begin() + end)});
        }
    }

    void find_score() {
        for (size_t i = 0; i < blocks_.size(); ++i)
            for (size_t j = i; j < blocks_.size(); ++j) {
                const Block &a = blocks_[i], &b = blocks_[j];
                if (!(pair_score(a.u, a.v, b.u, b.v) > best_)) continue;
                for (int64_t p = a.begin; p < a.end; ++p)
                    if (pair_score(c_.u[p], c_.v[p], b.u, b.v) > best_)
                        best_ = std::max(best_, partner_score(p, i == j ? p + 1 : b.begin, b.end));
            }
    }

    Pair lowest_pair() const {
        Pair found{std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::max()};
        for (size_t i = 0; i < blocks_.size(); ++i)
            for (size_t j = i; j < blocks_.size(); ++j) {
                const Block &a = blocks_[i], &b = blocks_[j];
                if (!(pair_score(a.u, a.v, b.u, b.v) >= best_) || std::min(a.lowest, b.lowest) > found.p)
                    continue;
                for (int64_t p = a.begin; p < a.end; ++p) {
                    if (std::min(c_.index[p], b.lowest) > found.p) continue;
                    const int64_t begin = i == j ? p + 1 : b.begin;
                    if (partner_score(p, begin, b.end) == best_) lower(found, p, begin, b.end);
                }
            }
        return found;
    }

    void lower(Pair& found, int64_t p, int64_t begin, int64_t end) const {
        for (int64_t q = begin; q < end; ++q) {
            if (pair_score(c_.u[p], c_.v[p], c_.u[q], c_.v[q]) != best_) continue;
            const int64_t low = std::min(c_.index[p], c_.index[q]), high = std::max(c_.index[p], c_.index[q]);
            if (low < found.p || (low == found.p && high < found.q)) found = {low, high};
        }
    }

    Candidates c_;
    const KernelTable& table_;
    std::vector<Block> blocks_;
    float best_ = kNoScore;
};

}  // namespace

void saliency_pair(const SaliencyPair& args, int threads) {
    const KernelTable& table = kernels_in_use();
    parallel_for(args.batch, 32768 / (args.n + 1) + 1, threads, [&](int64_t begin, int64_t end) {
        for (int64_t example = begin; example < end; ++example) {
            const Pair found = Search(choose_free(args, example), table).run();
            args.out[2 * example] = found.p;
            args.out[2 * example + 1] = found.q;
        }
    });
}

}  // namespace rcfast::cpu
