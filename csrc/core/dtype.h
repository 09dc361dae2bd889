// From a dtype that is known at run time to a type.
#pragma once
#include "../kernels.h"
#include "numbers.h"

namespace rcfast::core {
namespace {

// f(element), where element is a value of the dtype's type and says nothing else.
template <class F>
void with_type(Dtype dtype, F f) {
    switch (dtype) {
        case Dtype::f32:
            return f(float{});
        case Dtype::f16:
            return f(f16{});
        case Dtype::bf16:
            return f(bf16{});
    }
}

}  // namespace
}  // namespace rcfast::core
