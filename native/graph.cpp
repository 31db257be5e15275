// A recorded piece of the device's work, a CUDA graph: one call replays all its kernels. Without CUDA the functions are
// there and say so.
#include "ctkd_torch.h"
#ifdef CTKD_CUDA
#include <ATen/autocast_mode.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <torch/csrc/api/include/torch/version.h>

namespace {

struct Graph {
  // Nothing can be recorded on the default stream, and what is rehearsed elsewhere leaves its memory there.
  explicit Graph(c10::DeviceIndex device)
      : side(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device)), before(side) {}

  c10::cuda::CUDAStream side, before;
  c10::DeviceIndex device_before = 0;
  at::cuda::CUDAGraph graph;
  bool cached = true;
};

Graph* of(void* graph) { return static_cast<Graph*>(graph); }

}  // namespace

CTKD_API void* ctkd_graph_new(int64_t device) {
  Graph* made = nullptr;
  ctkd::guard([&] { made = new Graph(static_cast<c10::DeviceIndex>(device >> 8)); });
  return made;
}

// What this thread asks for from here on goes to the graph's own stream, after all that was asked before.
CTKD_API int ctkd_graph_enter(void* graph) {
  return ctkd::guard([&] {
    of(graph)->device_before = c10::cuda::current_device();
    c10::cuda::set_device(of(graph)->side.device_index());
    of(graph)->before = c10::cuda::getCurrentCUDAStream();
    c10::cuda::device_synchronize();
    c10::cuda::setCurrentCUDAStream(of(graph)->side);
  });
}

CTKD_API int ctkd_graph_leave(void* graph) {
  return ctkd::guard([&] {
    c10::cuda::setCurrentCUDAStream(of(graph)->before);
    c10::cuda::device_synchronize();
    c10::cuda::set_device(of(graph)->device_before);
  });
}

// From here to the end nothing is done: it is recorded. Casts of weights must not be taken from a cache: they would be
// those of the first time in every replay.
CTKD_API int ctkd_graph_begin(void* graph) {
  return ctkd::guard([&] {
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 1)
    // Other threads, such as the finaliser's, may go on with what is theirs.
    of(graph)->graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
#else
    of(graph)->graph.capture_begin();
#endif
    of(graph)->cached = at::autocast::is_autocast_cache_enabled();
    at::autocast::set_autocast_cache_enabled(false);
  });
}

CTKD_API int ctkd_graph_end(void* graph) {
  return ctkd::guard([&] {
    at::autocast::set_autocast_cache_enabled(of(graph)->cached);
    of(graph)->graph.capture_end();
  });
}

CTKD_API int ctkd_graph_replay(void* graph) {
  return ctkd::guard([&] { of(graph)->graph.replay(); });
}

CTKD_API void ctkd_graph_free(void* graph) {
  ctkd::guard([&] {
    c10::cuda::device_synchronize();
    delete of(graph);
  });
}

// Bytes that tensors hold on a device.
CTKD_API int64_t ctkd_cuda_memory(int64_t device) {
  int64_t bytes = -1;
  ctkd::guard([&] {
    // The first of the allocator's statistics counts blocks of all sizes.
    bytes = c10::cuda::CUDACachingAllocator::getDeviceStats(static_cast<c10::DeviceIndex>(device >> 8))
                .allocated_bytes[0].current;
  });
  return bytes;
}

#else

namespace {
int absent() {
  return ctkd::guard([] { TORCH_CHECK(false, "the engine was built with a libtorch without CUDA"); });
}
}  // namespace

CTKD_API void* ctkd_graph_new(int64_t) {
  absent();
  return nullptr;
}
CTKD_API int ctkd_graph_enter(void*) { return absent(); }
CTKD_API int ctkd_graph_leave(void*) { return absent(); }
CTKD_API int ctkd_graph_begin(void*) { return absent(); }
CTKD_API int ctkd_graph_end(void*) { return absent(); }
CTKD_API int ctkd_graph_replay(void*) { return absent(); }
CTKD_API void ctkd_graph_free(void*) {}
CTKD_API int64_t ctkd_cuda_memory(int64_t) { return absent(); }

#endif
