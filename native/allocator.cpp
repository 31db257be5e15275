// Memory of the CPU's tensors. A training step asks for the same megabytes again and again: glibc either maps and
// unmaps them at every operator, or mixes them with small blocks that then keep the holes between them apart (a fifth
// more memory). Here they have a range of addresses of their own, backed by huge pages, in which the best fit is taken
// and free neighbours merge.
#include "ctkd_torch.h"
#include <algorithm>
#include <c10/core/CPUAllocator.h>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <sys/mman.h>
#include <unistd.h>

namespace {

constexpr size_t kLarge = size_t{256} << 10;  // smaller requests go to glibc
constexpr size_t kGrain = size_t{4} << 10;    // sizes are multiples of this
constexpr size_t kHuge = size_t{2} << 20;
constexpr size_t kKeep = size_t{1} << 30;     // so much free memory at the end of the heap stays ours

class Heap {
 public:
  // Reserves as many addresses as the machine has memory; they cost nothing until they are used.
  Heap() {
    size_t size = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE) / kHuge * kHuge;
    void* range = mmap(nullptr, size + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return;  // a limit on addresses: glibc serves all requests
    begin_ = top_ = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(range) + kHuge - 1) / kHuge * kHuge);
    end_ = begin_ + size;
    madvise(begin_, size, MADV_HUGEPAGE);
    insert(begin_, size);
  }

  bool owns(const void* at) const { return at >= begin_ && at < end_; }

  // Null when nothing fits.
  void* take(size_t size) {
    size = (size + kGrain - 1) / kGrain * kGrain;
    std::lock_guard<std::mutex> lock(mutex_);
    auto fit = by_size_.lower_bound({size, nullptr});
    if (fit == by_size_.end()) return nullptr;
    auto [room, at] = *fit;
    remove(at, room);
    if (room > size) insert(at + size, room - size);
    taken_[at] = size;
    top_ = std::max(top_, at + size);
    return at;
  }

  void give(void* pointer) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto at = static_cast<char*>(pointer);
    auto block = taken_.find(at);
    size_t size = block->second;
    taken_.erase(block);
    auto next = free_.upper_bound(at);
    if (next != free_.end() && next->first == at + size) {
      size_t more = next->second;
      remove(at + size, more);
      size += more;
    }
    auto before = free_.lower_bound(at);
    if (before != free_.begin() && (--before)->first + before->second == at) {
      size_t more = before->second;
      at = before->first;
      size += more;
      remove(at, more);
    }
    insert(at, size);

    if (at < top_ && top_ <= at + size && static_cast<size_t>(top_ - at) > kKeep) {
      madvise(at + kKeep, top_ - at - kKeep, MADV_DONTNEED);
      top_ = at + kKeep;
    }
  }

 private:
  void insert(char* at, size_t size) {
    free_[at] = size;
    by_size_.insert({size, at});
  }

  void remove(char* at, size_t size) {
    free_.erase(at);
    by_size_.erase({size, at});
  }

  char* begin_ = nullptr;
  char* end_ = nullptr;
  char* top_ = nullptr;  // nothing beyond it has memory
  std::mutex mutex_;
  std::map<char*, size_t> free_, taken_;
  std::set<std::pair<size_t, char*>> by_size_;
};

// Never destroyed: tensors may outlive every static object.
Heap& heap() {
  static auto* heap = new Heap;
  return *heap;
}

void release(void* pointer) {
  if (heap().owns(pointer))
    heap().give(pointer);
  else
    std::free(pointer);
}

struct Allocator final : c10::Allocator {
  static c10::DataPtr make(size_t size) {
    void* pointer = size >= kLarge ? heap().take(size) : nullptr;
    if (!pointer && size > 0 && posix_memalign(&pointer, 64, size) != 0)
      TORCH_CHECK(false, "not enough memory for a tensor of ", size, " bytes");
    return {pointer, pointer, release, c10::Device(c10::DeviceType::CPU)};
  }

  // Which of the two libtorch declares, and whether it declares copy_data, depends on its version.
  c10::DataPtr allocate(size_t size) const { return make(size); }
  c10::DataPtr allocate(size_t size) { return make(size); }
  void copy_data(void* to, const void* from, size_t size) const { std::memcpy(to, from, size); }
  c10::DeleterFnPtr raw_deleter() const override { return release; }
};

}  // namespace

void ctkd::use_heap() { c10::SetCPUAllocator(new Allocator, /*priority=*/1); }
