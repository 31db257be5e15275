// Reverse-mode gradients in their pure form (no .grad fields), grad mode and autocast.
#include "ctkd_torch.h"
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/api/include/torch/version.h>
#include <torch/csrc/autograd/autograd.h>

using ctkd::Handle;

// d(sum of outputs) / d(inputs). An input that the outputs do not depend on gives a null handle.
CTKD_API int ctkd_grad(const Handle* outputs, int output_count, const Handle* inputs, int input_count,
                       int retain_graph, int create_graph, Handle* gradients) {
  return ctkd::guard([&] {
    torch::autograd::variable_list out, in;
    for (int i = 0; i < output_count; ++i) out.push_back(ctkd::borrow(outputs[i]));
    for (int i = 0; i < input_count; ++i) in.push_back(ctkd::borrow(inputs[i]));
    auto result = torch::autograd::grad(out, in, {}, retain_graph != 0, create_graph != 0, /*allow_unused=*/true);
    for (int i = 0; i < input_count; ++i) gradients[i] = ctkd::give(std::move(result[i]));
  });
}

// Both answer the mode that was in force before.
CTKD_API int ctkd_grad_mode(int enabled) {
  int before = c10::GradMode::is_enabled();
  c10::GradMode::set_enabled(enabled != 0);
  return before;
}

bool ctkd::autocasts(c10::Device device) {
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4)
  return at::autocast::is_autocast_enabled(device.type());
#else
  return device.is_cpu() ? at::autocast::is_cpu_enabled() : at::autocast::is_enabled();
#endif
}

// Autocast of one device type (0 CPU, 1 CUDA) to `dtype`; returns 1 or 0 as it was before, -1 on failure.
CTKD_API int ctkd_autocast(int device, int enabled, int dtype) {
  int before = -1;
  ctkd::guard([&] {
    auto type = static_cast<at::ScalarType>(dtype);
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4)
    auto device_type = static_cast<c10::DeviceType>(device);
    int was = at::autocast::is_autocast_enabled(device_type);
    at::autocast::set_autocast_dtype(device_type, type);
    at::autocast::set_autocast_enabled(device_type, enabled != 0);
#else
    int was;
    if (device == 0) {
      was = at::autocast::is_cpu_enabled();
      at::autocast::set_autocast_cpu_dtype(type);
      at::autocast::set_cpu_enabled(enabled != 0);
    } else {
      was = at::autocast::is_enabled();
      at::autocast::set_autocast_gpu_dtype(type);
      at::autocast::set_enabled(enabled != 0);
    }
#endif
    // Casts of weights are cached; weights change in place, so nothing may outlive the region.
    if (!enabled) at::autocast::clear_cache();
    before = was;
  });
  return before;
}
