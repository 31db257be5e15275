// The process-wide side of libtorch: threads, generators, devices, what it was built with.
#include "ctkd_torch.h"
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <malloc.h>
#include <torch/csrc/api/include/torch/version.h>
#ifdef CTKD_CUDA
#include <c10/cuda/CUDAFunctions.h>
#endif

using ctkd::Handle;

// Raised when a signature or the meaning of an argument changes; the managed side refuses another number.
CTKD_API int ctkd_abi() { return 1; }

CTKD_API const char* ctkd_last_error() { return ctkd::last_error.c_str(); }

CTKD_API const char* ctkd_version() { return TORCH_VERSION; }

CTKD_API const char* ctkd_config() {
  static const std::string text = at::show_config() + at::get_parallel_info();
  return text.c_str();
}

// Activations, and oneDNN's copies of them, are megabytes that glibc would map and unmap at every operator: keep the
// first in a heap of their own, the second in glibc's.
CTKD_API void ctkd_keep_memory() {
  ctkd::guard([] { ctkd::use_heap(); });
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
}

CTKD_API int ctkd_threads() { return at::get_num_threads(); }

CTKD_API int ctkd_set_threads(int count) {
  return ctkd::guard([&] { at::set_num_threads(count); });
}

CTKD_API int ctkd_has_mkldnn() { return at::hasMKLDNN(); }

namespace {
at::Generator generator(int64_t device) {
  c10::Device where(static_cast<c10::DeviceType>(device & 0xff), static_cast<c10::DeviceIndex>(device >> 8));
  return at::globalContext().defaultGenerator(where);
}
}  // namespace

CTKD_API int ctkd_seed(int64_t device, uint64_t seed) {
  return ctkd::guard([&] {
    auto gen = generator(device);
    std::lock_guard<std::mutex> lock(gen.mutex());
    gen.set_current_seed(seed);
  });
}

// The generator's state as a byte tensor, and back.
CTKD_API Handle ctkd_generator_state(int64_t device) {
  Handle state = nullptr;
  ctkd::guard([&] {
    auto gen = generator(device);
    std::lock_guard<std::mutex> lock(gen.mutex());
    state = ctkd::give(gen.get_state());
  });
  return state;
}

CTKD_API int ctkd_set_generator_state(int64_t device, Handle state) {
  return ctkd::guard([&] {
    auto gen = generator(device);
    std::lock_guard<std::mutex> lock(gen.mutex());
    gen.set_state(ctkd::borrow(state));
  });
}

// Algorithms that repeat to the bit.
CTKD_API int ctkd_deterministic(int enabled) {
  return ctkd::guard([&] {
    at::globalContext().setDeterministicCuDNN(enabled != 0);
    at::globalContext().setBenchmarkCuDNN(enabled == 0);
  });
}

// Products and convolutions of float32 numbers on tensor cores, with 10 bits of the fraction instead of 23 (CUDA).
CTKD_API int ctkd_tf32(int enabled) {
  return ctkd::guard([&] {
    at::globalContext().setAllowTF32CuBLAS(enabled != 0);
    at::globalContext().setAllowTF32CuDNN(enabled != 0);
  });
}

CTKD_API int ctkd_cuda_devices() {
#ifdef CTKD_CUDA
  int count = 0;
  return ctkd::guard([&] { count = c10::cuda::device_count(); }) == 0 ? count : 0;
#else
  return 0;
#endif
}

CTKD_API int ctkd_cuda_synchronize() {
#ifdef CTKD_CUDA
  return ctkd::guard([] { c10::cuda::device_synchronize(); });
#else
  return 0;
#endif
}
