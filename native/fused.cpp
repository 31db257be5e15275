// Convolutions with what follows them in one pass over memory, for networks that are run and not trained:
//   ctkd::conv2d_relu      relu(conv(input))
//   ctkd::conv2d_add_relu  relu(conv(input) + residual), which may overwrite the residual
// oneDNN (CPU, channels innermost, float32 and bfloat16) and cuDNN fuse them. Where they cannot, and where a gradient is
// wanted, the same is computed in steps.
#include "onednn.h"
#include "ctkd_torch.h"
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/library.h>

namespace {

using at::Tensor;
using OptionalTensor = c10::optional<Tensor>;

struct Geometry {
  int64_t stride, padding, groups;
};

bool wants_gradient(const Tensor& x) { return at::GradMode::is_enabled() && x.requires_grad(); }

Tensor in_steps(const Tensor* residual, const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Geometry g) {
  auto y = at::conv2d(x, weight, bias, g.stride, g.padding, 1, g.groups);
  if (residual) y = y.add_(*residual);
  return y.relu_();
}

#ifdef CTKD_ONEDNN
using dnnl::memory;

using namespace ctkd::onednn;

// A convolution of one shape with its weights in the layout that it wants.
struct Prepared {
  std::vector<int64_t> shape;  // of the input
  int threads;                 // a primitive books memory for each
  Geometry geometry;
  bool adds;
  bool fast;  // false: oneDNN has only its reference here
  dnnl::convolution_forward run;
  memory source, bias, result;  // of a call: they get its addresses
  std::unordered_map<int, memory> arguments;

  bool is(const Tensor& x, Geometry g, bool biased, bool residual) const {
    return x.sizes() == at::IntArrayRef(shape) && at::get_num_threads() == threads && g.stride == geometry.stride && g.padding == geometry.padding &&
           g.groups == geometry.groups && biased == bool(bias) && residual == adds;
  }
};

// What was prepared for a weight, as long as that weight lives and keeps its values.
struct Entry {
  c10::weak_intrusive_ptr<c10::TensorImpl> weight;
  uint32_t version;
  std::vector<std::unique_ptr<Prepared>> prepared;
};

uint32_t version_of(const Tensor& x) { return x.is_inference() ? 0 : x._version(); }

std::unique_ptr<Prepared> prepare(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Geometry g, bool adds) {
  using namespace dnnl;
  auto type = type_of(weight);
  auto size = [&](int64_t length, int64_t kernel) { return (length + 2 * g.padding - kernel) / g.stride + 1; };
  int64_t out = weight.size(0), in = weight.size(1), height = weight.size(2), width = weight.size(3);
  memory::dims wanted = {out, in, height, width};
  auto plain = weight.contiguous();
  auto layout = memory::format_tag::oihw;
  if (g.groups > 1) {
    wanted = {g.groups, out / g.groups, in, height, width};
    layout = memory::format_tag::goihw;
  }

  auto made = std::make_unique<Prepared>();
  made->shape = x.sizes().vec();
  made->threads = at::get_num_threads();
  made->geometry = g;
  made->adds = adds;
  auto source = describe(x.sizes(), type);
  auto result = describe({x.size(0), out, size(x.size(2), height), size(x.size(3), width)}, type);
  post_ops after;
  if (adds) after.append_sum(1.f);
  after.append_eltwise(1.f, algorithm::eltwise_relu, 0.f, 0.f);
  primitive_attr attributes;
  attributes.set_post_ops(after);
  attributes.set_scratchpad_mode(scratchpad_mode::user);
  memory::desc biases = bias ? memory::desc({out}, type, memory::format_tag::a) : memory::desc();
  convolution_forward::desc described(prop_kind::forward_inference, algorithm::convolution_direct, source,
                                      memory::desc(wanted, type, memory::format_tag::any), biases, result,
                                      {g.stride, g.stride}, {g.padding, g.padding}, {g.padding, g.padding});
  convolution_forward::primitive_desc chosen(described, attributes, cpu());
  made->fast = std::string(chosen.impl_info_str()).find("ref") == std::string::npos;
  if (!made->fast) return made;
  made->run = convolution_forward(chosen);
  made->source = memory(source, cpu(), nullptr);
  made->result = memory(result, cpu(), nullptr);
  memory arranged(chosen.weights_desc(), cpu());
  memory as_given({wanted, type, layout}, cpu(), plain.data_ptr());
  reorder(as_given, arranged).execute(queue(), as_given, arranged);
  queue().wait();
  made->arguments = {{DNNL_ARG_SRC, made->source},
                     {DNNL_ARG_WEIGHTS, arranged},
                     {DNNL_ARG_DST, made->result},
                     {DNNL_ARG_SCRATCHPAD, memory(chosen.scratchpad_desc(), cpu())}};
  if (bias) {
    made->bias = memory(biases, cpu(), nullptr);
    made->arguments.emplace(DNNL_ARG_BIAS, made->bias);
  }
  return made;
}

Prepared& find(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Geometry g, bool adds) {
  static auto& entries = *new std::unordered_map<c10::TensorImpl*, Entry>();  // outlives every static tensor
  auto impl = weight.unsafeGetTensorImpl();
  auto at = entries.find(impl);
  if (at == entries.end() || at->second.version != version_of(weight)) {
    for (auto e = entries.begin(); e != entries.end();) e = e->second.weight.expired() ? entries.erase(e) : std::next(e);
    Entry fresh{c10::weak_intrusive_ptr<c10::TensorImpl>(weight.getIntrusivePtr()), version_of(weight), {}};
    at = entries.insert_or_assign(impl, std::move(fresh)).first;
  }
  auto& prepared = at->second.prepared;
  for (auto& one : prepared)
    if (one->is(x, g, bias.has_value(), adds)) return *one;
  const size_t most = 8;  // shapes of one weight: batches, and the shorter last ones
  if (prepared.size() == most) prepared.erase(prepared.begin());
  prepared.push_back(prepare(x, weight, bias, g, adds));
  return *prepared.back();
}

bool suits(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  auto type = weight.scalar_type();
  return takes(x) && x.scalar_type() == type && weight.dim() == 4 &&
         (!bias || (bias->scalar_type() == type && bias->is_contiguous()));
}

// Undefined where oneDNN is of no use.
Tensor by_onednn(const Tensor* residual, const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Geometry g) {
  // A convolution cannot write where it still reads.
  if (!suits(x, weight, bias) || (residual && residual->is_alias_of(x))) return {};
  auto lock = turn();
  auto& made = find(x, weight, bias, g, residual != nullptr);
  if (!made.fast) return {};
  auto sizes = made.result.get_desc().dims();
  Tensor y;
  if (!residual)
    y = at::empty(sizes, x.options(), at::MemoryFormat::ChannelsLast);
  else if (residual->sizes() == at::IntArrayRef(sizes) && residual->scalar_type() == x.scalar_type() &&
           residual->is_contiguous(at::MemoryFormat::ChannelsLast))
    y = *residual;
  else
    return {};

  made.source.set_data_handle(x.data_ptr());
  made.result.set_data_handle(y.data_ptr());
  if (bias) made.bias.set_data_handle(bias->data_ptr());
  made.run.execute(queue(), made.arguments);
  return y;
}
#endif

#ifdef CTKD_CUDA
Tensor by_cudnn(const Tensor* residual, const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Geometry g) {
  std::vector<int64_t> stride(2, g.stride), padding(2, g.padding), dilation(2, 1);
  return residual ? at::cudnn_convolution_add_relu(x, weight, *residual, 1, bias, stride, padding, dilation, g.groups)
                  : at::cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, g.groups);
}
#endif

Tensor fused(const Tensor* residual, const Tensor& input, const Tensor& weight, const OptionalTensor& bias, Geometry g) {
  // Weights that were rounded beforehand take their input rounded: what autocast does for weights that were not.
  auto x = weight.scalar_type() == at::kBFloat16 ? input.to(at::kBFloat16) : input;
  bool trains = wants_gradient(x) || wants_gradient(weight) || (bias && wants_gradient(*bias)) ||
                (residual && wants_gradient(*residual));
  // Weights that autocast would round are left to it.
  if (!trains && (weight.scalar_type() == at::kBFloat16 || !ctkd::autocasts(x.device()))) {
#ifdef CTKD_CUDA
    if (x.is_cuda() && x.scalar_type() == weight.scalar_type() && x.scalar_type() != at::kDouble && g.groups == 1 &&
        (!residual || (residual->is_cuda() && residual->scalar_type() == x.scalar_type())))
      return by_cudnn(residual, x, weight, bias, g);
#endif
#ifdef CTKD_ONEDNN
    if (auto y = by_onednn(residual, x, weight, bias, g); y.defined()) return y;
#endif
  }
  return in_steps(residual, x, weight, bias, g);
}

Tensor conv2d_relu(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, int64_t stride, int64_t padding,
                   int64_t groups) {
  return fused(nullptr, input, weight, bias, {stride, padding, groups});
}

Tensor conv2d_add_relu(const Tensor& residual, const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                       int64_t stride, int64_t padding, int64_t groups) {
  return fused(&residual, input, weight, bias, {stride, padding, groups});
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ctkd, library) {
  library.def("conv2d_relu(Tensor input, Tensor weight, Tensor? bias, int stride, int padding, int groups) -> Tensor",
              conv2d_relu);
  library.def(
      "conv2d_add_relu(Tensor residual, Tensor input, Tensor weight, Tensor? bias, int stride, int padding, int groups)"
      " -> Tensor",
      conv2d_add_relu);
}

// Whether oneDNN fuses on the CPU.
CTKD_API int ctkd_fuses() {
#ifdef CTKD_ONEDNN
  return 1;
#else
  return 0;
#endif
}
