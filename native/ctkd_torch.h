// What every file of the shim shares: the calling convention and the error slot.
// Convention: a function returns -1 (or a null pointer) on failure and leaves the message in ctkd_last_error().
// No C++ exception ever crosses the border.
#pragma once
#include <ATen/ATen.h>
#include <exception>
#include <string>

#define CTKD_API extern "C" __attribute__((visibility("default")))

namespace ctkd {

inline thread_local std::string last_error;

// A tensor travels as one owned reference to its TensorImpl: no allocation besides libtorch's own.
using Handle = c10::TensorImpl*;

inline Handle give(at::Tensor tensor) {
  return tensor.defined() ? tensor.unsafeReleaseTensorImpl() : nullptr;
}

inline at::Tensor borrow(Handle handle) {
  return handle ? at::Tensor(c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>::
                                 unsafe_reclaim_from_nonowning(handle))
                : at::Tensor();
}

// Whether autocast is on for a type of device (autograd.cpp).
bool autocasts(c10::Device device);

// Gives the CPU's tensors a heap of their own (allocator.cpp).
void use_heap();

template <class Body>
int guard(Body body) noexcept {
  try {
    body();
    return 0;
  } catch (const c10::Error& error) {
    last_error = error.what_without_backtrace();
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "an exception of unknown type left libtorch";
  }
  return -1;
}

}  // namespace ctkd
