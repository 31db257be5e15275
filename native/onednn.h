// What the files that call oneDNN share.
#pragma once
#ifdef CTKD_ONEDNN
#include "ctkd_torch.h"
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

namespace ctkd::onednn {

inline const dnnl::engine& cpu() {
  static const dnnl::engine only(dnnl::engine::kind::cpu, 0);
  return only;
}

inline dnnl::stream& queue() {
  static dnnl::stream only(cpu());
  return only;
}

// Threads of the program take turns: a primitive and the memory that it works in are shared.
inline std::lock_guard<std::mutex> turn() {
  static std::mutex mutex;
  return std::lock_guard<std::mutex>(mutex);
}

inline dnnl::memory::data_type type_of(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

// float32, or bfloat16 where the processor has the instructions; on the CPU; channels innermost.
inline bool takes(const at::Tensor& x) {
  auto type = x.scalar_type();
  bool known = type == at::kFloat ||
               (type == at::kBFloat16 && dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core);
  return known && x.device().is_cpu() && x.dim() == 4 && x.numel() > 0 && x.is_contiguous(at::MemoryFormat::ChannelsLast);
}

inline dnnl::memory::desc describe(at::IntArrayRef sizes, dnnl::memory::data_type type) {
  return {sizes.vec(), type, dnnl::memory::format_tag::nhwc};
}

}  // namespace ctkd::onednn
#endif
