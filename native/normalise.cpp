// Batch normalisation over [N, C, H, W], and the ReLU behind it in the same passes over memory, forward and backward:
//   ctkd::batch_norm  gamma (x - mean) / sqrt(var + eps) + beta, of the batch in training, else of the running statistics
// oneDNN does it for training on the CPU with channels innermost in bfloat16, a quarter faster than libtorch's own in steps;
// in float32 its backward pass is the slower one (measured: docs/performance.md). Everything else goes through libtorch's.
#include "onednn.h"
#include "ctkd_torch.h"
#include <ATen/Parallel.h>
#include <map>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace {

using at::Tensor;

#ifdef CTKD_ONEDNN
using dnnl::memory;
using namespace ctkd::onednn;

// The normalisation of one shape, with places for the addresses of a call.
struct Prepared {
  dnnl::batch_normalization_forward forward;
  dnnl::batch_normalization_backward backward;
  memory x, y, mean, variance, scale_shift, workspace, grad_y, grad_x, grad_scale_shift;
  std::unordered_map<int, memory> forward_arguments, backward_arguments;
  bool fast;
};

using Key = std::pair<std::vector<int64_t>, double>;  // sizes, type, threads, ReLU; eps

std::unique_ptr<Prepared> prepare(const Tensor& like, double eps, bool relu) {
  using namespace dnnl;
  auto made = std::make_unique<Prepared>();
  auto described = describe(like.sizes(), type_of(like));
  auto flags = normalization_flags::use_scale_shift;
  if (relu) flags = flags | normalization_flags::fuse_norm_relu;
  batch_normalization_forward::desc forward({prop_kind::forward_training, described, static_cast<float>(eps), flags});
  batch_normalization_forward::primitive_desc forward_chosen(forward, cpu());
  batch_normalization_backward::desc backward({prop_kind::backward, described, described, static_cast<float>(eps), flags});
  batch_normalization_backward::primitive_desc backward_chosen(backward, cpu(), forward_chosen);
  auto plain = [](const char* name) { return std::string(name).find("jit") == std::string::npos; };
  made->fast = !plain(forward_chosen.impl_info_str()) && !plain(backward_chosen.impl_info_str());
  made->forward = batch_normalization_forward(forward_chosen);
  made->backward = batch_normalization_backward(backward_chosen);
  auto place = [](const memory::desc& of) { return memory(of, cpu(), nullptr); };
  made->x = place(described), made->y = place(described);
  made->grad_x = place(described), made->grad_y = place(described);
  made->mean = place(forward_chosen.mean_desc()), made->variance = place(forward_chosen.variance_desc());
  made->scale_shift = place(forward_chosen.weights_desc());
  made->grad_scale_shift = place(backward_chosen.diff_weights_desc());
  made->workspace = place(forward_chosen.workspace_desc());
  made->forward_arguments = {{DNNL_ARG_SRC, made->x},
                             {DNNL_ARG_DST, made->y},
                             {DNNL_ARG_MEAN, made->mean},
                             {DNNL_ARG_VARIANCE, made->variance},
                             {DNNL_ARG_SCALE_SHIFT, made->scale_shift},
                             {DNNL_ARG_WORKSPACE, made->workspace}};
  made->backward_arguments = {{DNNL_ARG_SRC, made->x},
                              {DNNL_ARG_MEAN, made->mean},
                              {DNNL_ARG_VARIANCE, made->variance},
                              {DNNL_ARG_SCALE_SHIFT, made->scale_shift},
                              {DNNL_ARG_WORKSPACE, made->workspace},
                              {DNNL_ARG_DIFF_DST, made->grad_y},
                              {DNNL_ARG_DIFF_SRC, made->grad_x},
                              {DNNL_ARG_DIFF_SCALE_SHIFT, made->grad_scale_shift}};
  return made;
}

Prepared& find(const Tensor& like, double eps, bool relu) {
  static auto& known = *new std::map<Key, std::unique_ptr<Prepared>>();
  Key key{like.sizes().vec(), eps};
  // A primitive books memory for each thread.
  for (int64_t more : {static_cast<int64_t>(like.scalar_type()), int64_t{at::get_num_threads()}, int64_t{relu}})
    key.first.push_back(more);
  const size_t most = 256;  // shapes: of every layer, for batches and shorter last ones
  if (known.size() >= most && known.find(key) == known.end()) known.clear();
  auto& found = known[key];
  if (!found) found = prepare(like, eps, relu);
  return *found;
}

bool fast(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, bool relu) {
  bool suits = takes(x) && x.scalar_type() == at::kBFloat16 && weight.scalar_type() == at::kFloat && bias.scalar_type() == at::kFloat &&
               weight.is_contiguous() && bias.is_contiguous() && x.numel() > x.size(1);
  if (!suits) return false;
  auto lock = turn();
  return find(x, eps, relu).fast;
}

struct Normalise : torch::autograd::Function<Normalise> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const Tensor& running_mean, const Tensor& running_var, double momentum, double eps, bool relu) {
    auto y = at::empty_like(x);
    auto numbers = weight.options();
    auto mean = at::empty({x.size(1)}, numbers), variance = at::empty({x.size(1)}, numbers);
    auto scale_shift = at::cat({weight, bias});
    Tensor workspace;
    {
      auto lock = turn();
      auto& p = find(x, eps, relu);
      workspace = at::empty({static_cast<int64_t>(p.workspace.get_desc().get_size())}, numbers.dtype(at::kByte));
      p.x.set_data_handle(x.data_ptr());
      p.y.set_data_handle(y.data_ptr());
      p.mean.set_data_handle(mean.data_ptr());
      p.variance.set_data_handle(variance.data_ptr());
      p.scale_shift.set_data_handle(scale_shift.data_ptr());
      p.workspace.set_data_handle(workspace.data_ptr());
      p.forward.execute(queue(), p.forward_arguments);
    }
    // The running variance is that of the population.
    double count = static_cast<double>(x.numel()) / static_cast<double>(x.size(1));
    running_mean.mul_(1 - momentum).add_(mean, momentum);
    running_var.mul_(1 - momentum).add_(variance, momentum * count / (count - 1));
    context->save_for_backward({x, scale_shift, mean, variance, workspace});
    context->saved_data["eps"] = eps;
    context->saved_data["relu"] = relu;
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto saved = context->get_saved_variables();
    auto x = saved[0], scale_shift = saved[1], mean = saved[2], variance = saved[3], workspace = saved[4];
    auto grad_y = gradients[0].to(x.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
    auto grad_x = at::empty_like(x);
    auto grad_scale_shift = at::empty_like(scale_shift);
    {
      auto lock = turn();
      auto& p = find(x, context->saved_data["eps"].toDouble(), context->saved_data["relu"].toBool());
      p.x.set_data_handle(x.data_ptr());
      p.mean.set_data_handle(mean.data_ptr());
      p.variance.set_data_handle(variance.data_ptr());
      p.scale_shift.set_data_handle(scale_shift.data_ptr());
      p.workspace.set_data_handle(workspace.data_ptr());
      p.grad_y.set_data_handle(grad_y.data_ptr());
      p.grad_x.set_data_handle(grad_x.data_ptr());
      p.grad_scale_shift.set_data_handle(grad_scale_shift.data_ptr());
      p.backward.execute(queue(), p.backward_arguments);
    }
    auto channels = x.size(1);
    return {grad_x, grad_scale_shift.slice(0, 0, channels), grad_scale_shift.slice(0, channels), {}, {}, {}, {}, {}};
  }
};
#endif

Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                  const Tensor& running_var, bool training, double momentum, double eps, bool relu) {
#ifdef CTKD_ONEDNN
  if (training && fast(x, weight, bias, eps, relu))
    return Normalise::apply(x, weight, bias, running_mean, running_var, momentum, eps, relu);
#endif
  auto y = at::batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, /*cudnn_enabled=*/true);
  // No backward pass needs the result of a normalisation.
  return relu ? y.relu_() : y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ctkd, library) {
  library.def(
      "batch_norm(Tensor input, Tensor weight, Tensor bias, Tensor running_mean, Tensor running_var, bool training,"
      " float momentum, float eps, bool relu) -> Tensor",
      batch_norm);
}
