// pybind11 only: pointers come as integers from rcfast/ops.py, which has checked every tensor.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "core/philox.h"
#include "core/quantile.h"
#include "kernels.h"

namespace py = pybind11;

namespace {

using Address = uintptr_t;

template <class T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

// `stream` is None for the CPU.
void sample_hypercube(Address out, int dtype, Address x, double r, Address r_each, Address example_ids,
                      int64_t seed, Address seed_tensor, int64_t first_sample, Address first_sample_tensor,
                      int64_t batch, int64_t samples, int64_t n, int64_t channels, int clip, int threads,
                      std::optional<Address> stream) {
    const rcfast::SampleHypercube args{pointer<void>(out),
                                       static_cast<rcfast::Dtype>(dtype),
                                       pointer<const float>(x),
                                       pointer<const float>(r_each),
                                       r,
                                       pointer<const int64_t>(example_ids),
                                       pointer<const int64_t>(seed_tensor),
                                       static_cast<uint64_t>(seed),
                                       static_cast<uint32_t>(first_sample),
                                       pointer<const int64_t>(first_sample_tensor),
                                       batch,
                                       samples,
                                       n,
                                       channels,
                                       static_cast<rcfast::Clip>(clip)};
    const py::gil_scoped_release release;
    if (!stream) return rcfast::cpu::sample_hypercube(args, threads);
#if defined(RCFAST_CUDA)
    rcfast::cuda::sample_hypercube(args, pointer<void>(*stream));
#else
    throw std::runtime_error("rcfast was built without CUDA");
#endif
}

void sample_noise(Address out, int dtype, Address x, double size, Address size_each, Address example_ids,
                  int64_t seed, Address seed_tensor, int64_t first_sample, Address first_sample_tensor,
                  int64_t batch, int64_t samples, int64_t n, int64_t channels, int noise, bool clamp,
                  int threads, std::optional<Address> stream) {
    const rcfast::SampleNoise args{pointer<void>(out),
                                   static_cast<rcfast::Dtype>(dtype),
                                   pointer<const float>(x),
                                   pointer<const float>(size_each),
                                   size,
                                   pointer<const int64_t>(example_ids),
                                   pointer<const int64_t>(seed_tensor),
                                   static_cast<uint64_t>(seed),
                                   static_cast<uint32_t>(first_sample),
                                   pointer<const int64_t>(first_sample_tensor),
                                   batch,
                                   samples,
                                   n,
                                   channels,
                                   static_cast<rcfast::Noise>(noise),
                                   clamp};
    const py::gil_scoped_release release;
    if (!stream) return rcfast::cpu::sample_noise(args, threads);
#if defined(RCFAST_CUDA)
    rcfast::cuda::sample_noise(args, pointer<void>(*stream));
#else
    throw std::runtime_error("rcfast was built without CUDA");
#endif
}

// `ends`: of the segments; empty where there is one.
void vote(Address counts, Address logits, int dtype, int64_t batch, int64_t samples, int64_t labels,
          const std::vector<int64_t>& ends, int threads, std::optional<Address> stream) {
    rcfast::Vote args{pointer<int32_t>(counts),
                      pointer<const void>(logits),
                      static_cast<rcfast::Dtype>(dtype),
                      batch,
                      samples,
                      labels};
    if (ends.size() > rcfast::kMaxSegments) throw std::invalid_argument("too many segments");
    if (!ends.empty()) args.segments = static_cast<int>(ends.size());
    std::copy(ends.begin(), ends.end(), args.ends);
    const py::gil_scoped_release release;
    if (!stream) return rcfast::cpu::vote(args, threads);
#if defined(RCFAST_CUDA)
    rcfast::cuda::vote(args, pointer<void>(*stream));
#else
    throw std::runtime_error("rcfast was built without CUDA");
#endif
}

void judge(Address counts, Address opening, Address samples, Address decided, Address state, Address who,
           Address votes, int64_t active, int64_t labels, const std::vector<int64_t>& checkpoints, bool opens,
           int64_t m, int stop, double alpha) {
    const rcfast::Judge args{pointer<int32_t>(counts),
                             pointer<int32_t>(opening),
                             pointer<int64_t>(samples),
                             pointer<uint8_t>(decided),
                             pointer<rcfast::State>(state),
                             pointer<const int64_t>(who),
                             pointer<const int32_t>(votes),
                             active,
                             static_cast<int64_t>(checkpoints.size()),
                             labels,
                             checkpoints.data(),
                             opens,
                             m,
                             static_cast<rcfast::Stop>(stop),
                             alpha};
    const py::gil_scoped_release release;
    rcfast::cpu::judge(args);
}

void vote_soft(Address totals, Address cast, Address logits, Address weights, int dtype, int64_t batch,
               int64_t samples, int64_t labels, int mode, int threads, std::optional<Address> stream) {
    const rcfast::VoteSoft args{pointer<int64_t>(totals),
                                pointer<int32_t>(cast),
                                pointer<const void>(logits),
                                pointer<const int32_t>(weights),
                                static_cast<rcfast::Dtype>(dtype),
                                batch,
                                samples,
                                labels,
                                static_cast<rcfast::Soft>(mode)};
    const py::gil_scoped_release release;
    if (!stream) return rcfast::cpu::vote_soft(args, threads);
#if defined(RCFAST_CUDA)
    rcfast::cuda::vote_soft(args, pointer<void>(*stream));
#else
    throw std::runtime_error("rcfast was built without CUDA");
#endif
}

void distance(Address out, Address points, int dtype, Address x, int64_t batch, int64_t samples, int64_t n,
              int64_t channels, int threads, std::optional<Address> stream) {
    const rcfast::Distance args{pointer<float>(out),
                                pointer<const void>(points),
                                static_cast<rcfast::Dtype>(dtype),
                                pointer<const float>(x),
                                batch,
                                samples,
                                n,
                                channels};
    const py::gil_scoped_release release;
    if (!stream) return rcfast::cpu::distance(args, threads);
#if defined(RCFAST_CUDA)
    rcfast::cuda::distance(args, pointer<void>(*stream));
#else
    throw std::runtime_error("rcfast was built without CUDA");
#endif
}

void saliency_pair(Address out, Address a, Address b, Address free, Address workspace, int64_t batch,
                   int64_t n, bool down, int threads, std::optional<Address> stream) {
    const rcfast::SaliencyPair args{pointer<int64_t>(out),
                                    pointer<const float>(a),
                                    pointer<const float>(b),
                                    pointer<const uint8_t>(free),
                                    pointer<float>(workspace),
                                    batch,
                                    n,
                                    down};
    const py::gil_scoped_release release;
    if (!stream) return rcfast::cpu::saliency_pair(args, threads);
#if defined(RCFAST_CUDA)
    rcfast::cuda::saliency_pair(args, pointer<void>(*stream));
#else
    throw std::runtime_error("rcfast was built without CUDA");
#endif
}

void conv3x3(Address out, Address x, Address weights, Address bias, Address added, Address gate,
             int64_t images, int64_t height, int64_t width, int64_t channels, int64_t filters, int padding,
             bool winograd, bool relu, bool pool, int threads) {
    const rcfast::Conv3x3 args{pointer<float>(out),
                               pointer<const float>(x),
                               pointer<const float>(weights),
                               pointer<const float>(bias),
                               pointer<const float>(added),
                               pointer<const float>(gate),
                               images,
                               height,
                               width,
                               channels,
                               filters,
                               padding,
                               winograd,
                               relu,
                               pool};
    const py::gil_scoped_release release;
    rcfast::cpu::conv3x3(args, threads);
}

py::tuple philox4x32_10(const std::array<uint32_t, 4>& counter, const std::array<uint32_t, 2>& key) {
    const auto words = rcfast::core::philox4x32_10({{counter[0], counter[1], counter[2], counter[3]}},
                                                   rcfast::core::round_keys(key[0], key[1]));
    return py::make_tuple(words.w[0], words.w[1], words.w[2], words.w[3]);
}

// The polynomials of core/quantile.h, for the tests and the reference: rows of coefficients, the highest
// power first.
std::vector<std::vector<float>> quantile_table(bool exponential) {
    std::vector<std::vector<float>> rows;
    for (const auto& row : exponential ? rcfast::core::kExponential : rcfast::core::kNormal)
        rows.emplace_back(row, row + rcfast::core::kQuantileColumns);
    return rows;
}

// The rational function of the normal's middle: edge, numerator and denominator, constants first.
std::vector<float> normal_middle() {
    namespace core = rcfast::core;
    return {core::kMiddleEdge,   core::kMiddleOver0,  core::kMiddleOver1,  core::kMiddleOver2,
            core::kMiddleOver3,  core::kMiddleOver4,  core::kMiddleOver5,  core::kMiddleOver6,
            core::kMiddleUnder0, core::kMiddleUnder1, core::kMiddleUnder2, core::kMiddleUnder3,
            core::kMiddleUnder4, core::kMiddleUnder5};
}

py::dict build_info() {
    py::dict info;
#if defined(RCFAST_CUDA)
    info["cuda"] = RCFAST_CUDA;  // version of the compiler
    info["cuda_targets"] = RCFAST_CUDA_TARGETS;
#else
    info["cuda"] = py::none();
    info["cuda_targets"] = py::none();
#endif
    info["compiler"] = RCFAST_COMPILER;
    info["instruction_sets"] = rcfast::cpu::instruction_sets();
    info["instruction_set"] = rcfast::cpu::instruction_set();
    return info;
}

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
    m.doc() = "Native kernels of rcfast; use them through rcfast.ops.";
    m.def("sample_hypercube", &sample_hypercube);
    m.def("sample_noise", &sample_noise);
    m.def("vote", &vote);
    m.def("judge", &judge);
    m.def("vote_soft", &vote_soft);
    m.def("distance", &distance);
    m.def("saliency_pair", &saliency_pair);
    m.def("conv3x3", &conv3x3);
    m.def("philox4x32_10", &philox4x32_10, py::arg("counter"), py::arg("key"));
    m.def("quantile_table", &quantile_table, py::arg("exponential"));
    m.def("normal_middle", &normal_middle);
    m.def("build_info", &build_info);
    m.def("use_instruction_set", &rcfast::cpu::use_instruction_set, py::arg("name"));
}
