// Tensors from and to memory, and what can be asked of one.
#include "ctkd_torch.h"
#include <cstring>

using ctkd::Handle;

// A copy of `data` (row-major, `bytes` long) on the CPU.
CTKD_API Handle ctkd_tensor_create(const void* data, int64_t bytes, const int64_t* shape, int rank, int dtype) {
  Handle created = nullptr;
  ctkd::guard([&] {
    auto tensor = at::empty({shape, static_cast<size_t>(rank)}, static_cast<at::ScalarType>(dtype));
    TORCH_CHECK(static_cast<int64_t>(tensor.nbytes()) == bytes, "the shape asks for ", tensor.nbytes(),
                " bytes, the data has ", bytes);
    if (bytes > 0) std::memcpy(tensor.data_ptr(), data, bytes);
    created = ctkd::give(std::move(tensor));
  });
  return created;
}

// The elements in row-major order, whatever the tensor's device and strides; waits for the device.
CTKD_API int ctkd_tensor_read(Handle handle, void* data, int64_t bytes) {
  return ctkd::guard([&] {
    at::NoGradGuard no_grad;
    auto tensor = ctkd::borrow(handle).detach().cpu().contiguous();
    TORCH_CHECK(static_cast<int64_t>(tensor.nbytes()) == bytes, "the tensor has ", tensor.nbytes(),
                " bytes, the buffer ", bytes);
    if (bytes > 0) std::memcpy(data, tensor.data_ptr(), bytes);
  });
}

CTKD_API void ctkd_tensor_free(Handle handle) {
  ctkd::guard([&] {
    c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>::reclaim(handle);
  });
}

CTKD_API int ctkd_tensor_rank(Handle handle) { return static_cast<int>(handle->dim()); }

CTKD_API int64_t ctkd_tensor_size(Handle handle, int dim) { return handle->sizes()[dim]; }

CTKD_API int64_t ctkd_tensor_numel(Handle handle) { return handle->numel(); }

CTKD_API int ctkd_tensor_dtype(Handle handle) {
  return static_cast<int>(c10::typeMetaToScalarType(handle->dtype()));
}

CTKD_API int64_t ctkd_tensor_device(Handle handle) {
  auto device = handle->device();
  return static_cast<int64_t>(device.type()) | (static_cast<int64_t>(device.has_index() ? device.index() : 0) << 8);
}

CTKD_API int ctkd_tensor_channels_last(Handle handle) {
  return handle->is_contiguous(at::MemoryFormat::ChannelsLast) && !handle->is_contiguous();
}

CTKD_API int ctkd_tensor_requires_grad(Handle handle) { return handle->requires_grad(); }

CTKD_API int ctkd_tensor_set_requires_grad(Handle handle, int value) {
  return ctkd::guard([&] { ctkd::borrow(handle).set_requires_grad(value != 0); });
}
