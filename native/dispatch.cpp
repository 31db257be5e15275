// Any operator of libtorch's registry, by name: one boxed call reaches them all, with autograd.
#include "ctkd_torch.h"
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace {

enum Tag : int32_t {
  kDefault, kNone, kTensor, kInt, kDouble, kBool, kInts, kDoubles, kBools,
  kTensors, kOptionalTensors, kString, kDevice
};

// Must match Ctkd.Torch.NativeValue: 16 bytes.
struct Value {
  int32_t tag;
  int32_t count;
  union {
    int64_t integer;
    double number;
    const void* data;
  };
};

struct Op {
  c10::OperatorHandle handle;
  std::string arguments;  // "self other alpha"
};

template <class T>
at::ArrayRef<T> list(const Value& value) {
  return {static_cast<const T*>(value.data), static_cast<size_t>(value.count)};
}

c10::IValue unbox(const Value& value, const c10::Argument& argument) {
  switch (value.tag) {
    case kDefault:
      TORCH_CHECK(argument.default_value(), "argument '", argument.name(), "' has no default");
      return *argument.default_value();
    case kNone: return {};
    case kTensor: return ctkd::borrow(static_cast<ctkd::Handle>(const_cast<void*>(value.data)));
    case kInt: return value.integer;
    case kDouble: return value.number;
    case kBool: return value.integer != 0;
    case kInts: return c10::List<int64_t>(list<int64_t>(value));
    case kDoubles: return c10::List<double>(list<double>(value));
    case kBools: {
      c10::List<bool> bools;
      for (auto flag : list<int64_t>(value)) bools.push_back(flag != 0);
      return bools;
    }
    case kTensors: {
      c10::List<at::Tensor> tensors;
      tensors.reserve(value.count);
      for (auto handle : list<ctkd::Handle>(value)) tensors.push_back(ctkd::borrow(handle));
      return tensors;
    }
    case kOptionalTensors: {
      c10::List<c10::optional<at::Tensor>> tensors;
      for (auto handle : list<ctkd::Handle>(value))
        tensors.push_back(handle ? c10::optional<at::Tensor>(ctkd::borrow(handle)) : c10::nullopt);
      return tensors;
    }
    case kString: return std::string(static_cast<const char*>(value.data), value.count);
    case kDevice:  // type in the low half, index in the high half
      return c10::Device(static_cast<c10::DeviceType>(value.integer & 0xff),
                         static_cast<c10::DeviceIndex>(value.integer >> 8));
  }
  TORCH_CHECK(false, "unknown argument tag ", value.tag);
}

// Results of the last call that had more of them than the caller had room for.
thread_local std::vector<at::Tensor> pending;

void collect(c10::IValue&& value, std::vector<at::Tensor>& results) {
  if (value.isTensor()) {
    results.push_back(std::move(value).toTensor());
  } else if (value.isTensorList()) {
    for (at::Tensor tensor : value.toTensorVector()) results.push_back(std::move(tensor));
  } else if (value.isScalar()) {
    results.push_back(at::scalar_tensor(value.toScalar(), at::kDouble));
  } else {
    TORCH_CHECK(value.isNone(), "a result of type ", value.tagKind(), " is not supported");
  }
}

}  // namespace

// The operator "aten::conv2d" with overload "" (or "Tensor", ...); null when this libtorch lacks it.
CTKD_API void* ctkd_op_find(const char* name, const char* overload) {
  Op* found = nullptr;
  ctkd::guard([&] {
    auto op = std::make_unique<Op>(Op{c10::Dispatcher::singleton().findSchemaOrThrow(name, overload), ""});
    for (const auto& argument : op->handle.schema().arguments()) {
      if (!op->arguments.empty()) op->arguments += ' ';
      op->arguments += argument.name();
    }
    found = op.release();  // lives as long as the process: operators are cached for good
  });
  return found;
}

CTKD_API const char* ctkd_op_arguments(void* op) { return static_cast<Op*>(op)->arguments.c_str(); }

// Calls the operator; arguments not given take the schema's defaults. Returns the number of result tensors, or -1.
// Up to `capacity` are handed over in `results`; where there are more, none is, and ctkd_op_take fetches them.
// With capacity 0 the results are dropped (in-place operators return their own argument).
CTKD_API int ctkd_op_call(void* op, const Value* values, int count, ctkd::Handle* results, int capacity) {
  int produced = -1;
  thread_local torch::jit::Stack stack;
  ctkd::guard([&] {
    const auto& handle = static_cast<Op*>(op)->handle;
    const auto& arguments = handle.schema().arguments();
    TORCH_CHECK(static_cast<size_t>(count) <= arguments.size(), "too many arguments for ", handle.schema().name());
    stack.clear();
    for (size_t i = 0; i < arguments.size(); ++i)
      stack.push_back(unbox(i < static_cast<size_t>(count) ? values[i] : Value{kDefault, 0, {0}}, arguments[i]));
    handle.callBoxed(&stack);

    if (capacity == 0) {
      produced = 0;
    } else if (stack.size() == 1 && stack[0].isTensor()) {
      results[0] = ctkd::give(std::move(stack[0]).toTensor());
      produced = 1;
    } else {
      pending.clear();
      for (auto& value : stack) collect(std::move(value), pending);
      produced = static_cast<int>(pending.size());
      if (produced <= capacity) {
        for (int i = 0; i < produced; ++i) results[i] = ctkd::give(std::move(pending[i]));
        pending.clear();
      }
    }
  });
  stack.clear();  // after a failure too: it must not keep tensors alive
  return produced;
}

CTKD_API int ctkd_op_take(ctkd::Handle* results, int count) {
  return ctkd::guard([&] {
    TORCH_CHECK(static_cast<size_t>(count) == pending.size(), "no such pending results");
    for (int i = 0; i < count; ++i) results[i] = ctkd::give(std::move(pending[i]));
    pending.clear();
  });
}
