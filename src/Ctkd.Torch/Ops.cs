namespace Ctkd.Torch;

#pragma warning disable CS1591 // The meaning of each operator is documented once, on the seam: Tensor.fsi.

/// <summary>
/// The operators that the seam uses, in the order of <c>Tensor.fsi</c>. Each line names the operator, the leading
/// arguments that the call relies on (checked against the libtorch at hand), and the call.
/// </summary>
public static class Ops
{
    // Making and converting
    private static readonly Operator zeros = new("aten::zeros", "size dtype layout device");
    private static readonly Operator full = new("aten::full", "size fill_value dtype layout device");
    private static readonly Operator arange = new("aten::arange.start_step", "start end step dtype layout device");
    private static readonly Operator toDType = new("aten::to.dtype", "self dtype");
    private static readonly Operator toDevice = new("aten::to.device", "self device dtype");
    private static readonly Operator contiguous = new("aten::contiguous", "self memory_format");
    private static readonly Operator clone = new("aten::clone", "self");
    private static readonly Operator detach = new("aten::detach", "self");

    public static Tensor Zeros(long[] shape, DType dtype, Device device) => zeros.Call(shape, dtype, Value.None, device);
    public static Tensor Full(long[] shape, double value, DType dtype, Device device) => full.Call(shape, value, dtype, Value.None, device);
    public static Tensor Arange(long start, long end, long step, Device device) => arange.Call(start, end, step, DType.Int64, Value.None, device);
    public static Tensor To(Tensor x, DType dtype) => toDType.Call(x, dtype);
    public static Tensor To(Tensor x, Device device) => toDevice.Call(x, device, x.DType);
    public static Tensor ChannelsLast(Tensor x) => contiguous.Call(x, 2L);
    public static Tensor Clone(Tensor x) => clone.Call(x);
    public static Tensor Detach(Tensor x) => detach.Call(x);

    // Element by element
    private static readonly Operator add = new("aten::add.Tensor", "self other alpha");
    private static readonly Operator addScalar = new("aten::add.Scalar", "self other");
    private static readonly Operator sub = new("aten::sub.Tensor", "self other alpha");
    private static readonly Operator mul = new("aten::mul.Tensor", "self other");
    private static readonly Operator mulScalar = new("aten::mul.Scalar", "self other");
    private static readonly Operator div = new("aten::div.Tensor", "self other");
    private static readonly Operator divScalar = new("aten::div.Scalar", "self other");
    private static readonly Operator neg = new("aten::neg", "self");
    private static readonly Operator abs = new("aten::abs", "self");
    private static readonly Operator exp = new("aten::exp", "self");
    private static readonly Operator log = new("aten::log", "self");
    private static readonly Operator sqrt = new("aten::sqrt", "self");
    private static readonly Operator sigmoid = new("aten::sigmoid", "self");
    private static readonly Operator tanh = new("aten::tanh", "self");
    private static readonly Operator cos = new("aten::cos", "self");
    private static readonly Operator softplus = new("aten::softplus", "self beta threshold");
    private static readonly Operator relu = new("aten::relu", "self");
    private static readonly Operator clamp = new("aten::clamp", "self min max");
    private static readonly Operator maximum = new("aten::maximum", "self other");
    private static readonly Operator minimum = new("aten::minimum", "self other");
    private static readonly Operator where = new("aten::where.self", "condition self other");
    private static readonly Operator eq = new("aten::eq.Tensor", "self other");
    private static readonly Operator eqScalar = new("aten::eq.Scalar", "self other");
    private static readonly Operator lt = new("aten::lt.Tensor", "self other");
    private static readonly Operator ltScalar = new("aten::lt.Scalar", "self other");
    private static readonly Operator logicalAnd = new("aten::logical_and", "self other");
    private static readonly Operator logicalNot = new("aten::logical_not", "self");
    private static readonly Operator isFinite = new("aten::isfinite", "self");
    private static readonly Operator xor = new("aten::bitwise_xor.Tensor", "self other");
    private static readonly Operator and = new("aten::bitwise_and.Scalar", "self other");
    private static readonly Operator shiftRight = new("aten::bitwise_right_shift.Tensor_Scalar", "self other");

    public static Tensor Add(Tensor a, Tensor b) => add.Call(a, b);
    public static Tensor AddScalar(Tensor a, double b) => addScalar.Call(a, b);
    public static Tensor Sub(Tensor a, Tensor b) => sub.Call(a, b);
    public static Tensor Mul(Tensor a, Tensor b) => mul.Call(a, b);
    public static Tensor MulScalar(Tensor a, double b) => mulScalar.Call(a, b);
    public static Tensor AddWhole(Tensor a, long b) => addScalar.Call(a, b);
    public static Tensor MulWhole(Tensor a, long b) => mulScalar.Call(a, b);
    public static Tensor Div(Tensor a, Tensor b) => div.Call(a, b);
    public static Tensor DivScalar(Tensor a, double b) => divScalar.Call(a, b);
    public static Tensor Neg(Tensor x) => neg.Call(x);
    public static Tensor Abs(Tensor x) => abs.Call(x);
    public static Tensor Exp(Tensor x) => exp.Call(x);
    public static Tensor Log(Tensor x) => log.Call(x);
    public static Tensor Sqrt(Tensor x) => sqrt.Call(x);
    public static Tensor Sigmoid(Tensor x) => sigmoid.Call(x);
    public static Tensor Tanh(Tensor x) => tanh.Call(x);
    public static Tensor Cos(Tensor x) => cos.Call(x);
    public static Tensor Softplus(Tensor x, double threshold) => softplus.Call(x, 1.0, threshold);
    public static Tensor Relu(Tensor x) => relu.Call(x);
    public static Tensor Clamp(Tensor x, double low, double high) => clamp.Call(x, low, high);
    public static Tensor Maximum(Tensor a, Tensor b) => maximum.Call(a, b);
    public static Tensor Minimum(Tensor a, Tensor b) => minimum.Call(a, b);
    public static Tensor Where(Tensor condition, Tensor yes, Tensor no) => where.Call(condition, yes, no);
    public static Tensor Eq(Tensor a, Tensor b) => eq.Call(a, b);
    public static Tensor EqScalar(Tensor a, double b) => eqScalar.Call(a, b);
    public static Tensor Lt(Tensor a, Tensor b) => lt.Call(a, b);
    public static Tensor LtScalar(Tensor a, double b) => ltScalar.Call(a, b);
    public static Tensor And(Tensor a, Tensor b) => logicalAnd.Call(a, b);
    public static Tensor Not(Tensor x) => logicalNot.Call(x);
    public static Tensor IsFinite(Tensor x) => isFinite.Call(x);
    public static Tensor Xor(Tensor a, Tensor b) => xor.Call(a, b);
    public static Tensor And(Tensor x, long mask) => and.Call(x, mask);
    public static Tensor ShiftRight(Tensor x, int bits) => shiftRight.Call(x, (long)bits);

    // Reductions
    private static readonly Operator sumAll = new("aten::sum", "self");
    private static readonly Operator sum = new("aten::sum.dim_IntList", "self dim keepdim");
    private static readonly Operator meanAll = new("aten::mean", "self");
    private static readonly Operator mean = new("aten::mean.dim", "self dim keepdim");
    private static readonly Operator amax = new("aten::amax", "self dim keepdim");
    private static readonly Operator amin = new("aten::amin", "self dim keepdim");
    private static readonly Operator argmax = new("aten::argmax", "self dim");
    private static readonly Operator topk = new("aten::topk", "self k dim");
    private static readonly Operator all = new("aten::all", "self");
    private static readonly Operator any = new("aten::any", "self");
    private static readonly Operator norm = new("aten::norm.Scalar", "self p");
    private static readonly Operator softmax = new("aten::softmax.int", "self dim");
    private static readonly Operator logSoftmax = new("aten::log_softmax.int", "self dim");
    private static readonly Operator logSumExp = new("aten::logsumexp", "self dim keepdim");

    public static Tensor Sum(Tensor x) => sumAll.Call(x);
    public static Tensor Sum(Tensor x, int dim) => sum.Call(x, Value.Dim(dim));
    public static Tensor Mean(Tensor x) => meanAll.Call(x);
    public static Tensor Mean(Tensor x, int dim) => mean.Call(x, Value.Dim(dim));
    public static Tensor MeanPair(Tensor x, int first, int second) => mean.Call(x, Value.Pair(first, second));
    public static Tensor Max(Tensor x) => amax.Call(x);
    public static Tensor Max(Tensor x, int dim) => amax.Call(x, Value.Dim(dim));
    public static Tensor Min(Tensor x) => amin.Call(x);
    public static Tensor ArgMax(Tensor x, int dim) => argmax.Call(x, (long)dim);
    public static (Tensor Values, Tensor Indices) TopK(Tensor x, int k, int dim) => topk.CallPair(x, (long)k, (long)dim);
    public static Tensor All(Tensor x) => all.Call(x);
    public static Tensor Any(Tensor x) => any.Call(x);
    public static Tensor Norm(Tensor x) => norm.Call(x, 2.0);
    public static Tensor Softmax(Tensor x, int dim) => softmax.Call(x, (long)dim);
    public static Tensor LogSoftmax(Tensor x, int dim) => logSoftmax.Call(x, (long)dim);
    public static Tensor LogSumExp(Tensor x, int dim) => logSumExp.Call(x, Value.Dim(dim));

    // Layers
    private static readonly Operator matmul = new("aten::matmul", "self other");
    private static readonly Operator linear = new("aten::linear", "input weight bias");
    private static readonly Operator conv2d = new("aten::conv2d", "input weight bias stride padding dilation groups");
    private static readonly Operator conv2dRelu = new("ctkd::conv2d_relu", "input weight bias stride padding groups");
    private static readonly Operator conv2dAddRelu = new("ctkd::conv2d_add_relu", "residual input weight bias stride padding groups");
    private static readonly Operator convTranspose2d = new("aten::conv_transpose2d.input", "input weight bias stride padding");
    private static readonly Operator batchNorm = new("ctkd::batch_norm", "input weight bias running_mean running_var training momentum eps relu");
    private static readonly Operator maxPool2d = new("aten::max_pool2d", "self kernel_size stride padding");
    private static readonly Operator avgPool2d = new("aten::avg_pool2d", "self kernel_size stride padding");
    private static readonly Operator dropout = new("aten::dropout", "input p train");
    private static readonly Operator lstm = new("aten::lstm.input", "input hx params has_biases num_layers dropout train bidirectional batch_first");
    private static readonly Operator crossEntropy = new("aten::cross_entropy_loss", "self target weight reduction");

    public static Tensor MatMul(Tensor a, Tensor b) => matmul.Call(a, b);
    public static Tensor Linear(Tensor x, Tensor weight, Tensor? bias) => linear.Call(x, weight, bias);
    public static Tensor Conv2d(Tensor x, Tensor weight, Tensor? bias, int stride, int padding, int groups) =>
        conv2d.Call(x, weight, bias, Value.Pair(stride, stride), Value.Pair(padding, padding), Value.Pair(1, 1), (long)groups);
    public static Tensor Conv2dRelu(Tensor x, Tensor weight, Tensor? bias, int stride, int padding, int groups) =>
        conv2dRelu.Call(x, weight, bias, (long)stride, (long)padding, (long)groups);
    public static Tensor Conv2dAddRelu(Tensor residual, Tensor x, Tensor weight, Tensor? bias, int stride, int padding, int groups) =>
        conv2dAddRelu.Call(residual, x, weight, bias, (long)stride, (long)padding, (long)groups);
    public static Tensor ConvTranspose2d(Tensor x, Tensor weight, Tensor? bias, int stride, int padding) =>
        convTranspose2d.Call(x, weight, bias, Value.Pair(stride, stride), Value.Pair(padding, padding));
    public static Tensor BatchNorm(Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor variance, bool training, double momentum, double epsilon, bool relu) =>
        batchNorm.Call(x, weight, bias, mean, variance, training, momentum, epsilon, relu);
    public static Tensor MaxPool2d(Tensor x, int kernel, int stride, int padding) =>
        maxPool2d.Call(x, Value.Pair(kernel, kernel), Value.Pair(stride, stride), Value.Pair(padding, padding));
    public static Tensor AvgPool2d(Tensor x, int kernel, int stride, int padding) =>
        avgPool2d.Call(x, Value.Pair(kernel, kernel), Value.Pair(stride, stride), Value.Pair(padding, padding));
    public static Tensor Dropout(Tensor x, double share) => dropout.Call(x, share, true);
    public static Tensor[] Lstm(Tensor x, Tensor[] start, Tensor[] weights) =>
        lstm.CallMany(x, start, weights, true, 1L, 0.0, true, false, false);
    public static Tensor CrossEntropy(Tensor logits, Tensor labels, bool reduce) => crossEntropy.Call(logits, labels, Value.None, reduce ? 1L : 0L);

    // Shapes and selection
    private static readonly Operator reshape = new("aten::reshape", "self shape");
    private static readonly Operator unsqueeze = new("aten::unsqueeze", "self dim");
    private static readonly Operator squeeze = new("aten::squeeze.dim", "self dim");
    private static readonly Operator expand = new("aten::expand", "self size");
    private static readonly Operator transpose = new("aten::transpose.int", "self dim0 dim1");
    private static readonly Operator permute = new("aten::permute", "self dims");
    private static readonly Operator flatten = new("aten::flatten.using_ints", "self start_dim end_dim");
    private static readonly Operator cat = new("aten::cat", "tensors dim");
    private static readonly Operator stack = new("aten::stack", "tensors dim");
    private static readonly Operator select = new("aten::select.int", "self dim index");
    private static readonly Operator slice = new("aten::slice.Tensor", "self dim start end step");
    private static readonly Operator indexSelect = new("aten::index_select", "self dim index");
    private static readonly Operator gather = new("aten::gather", "self dim index");
    private static readonly Operator pad = new("aten::constant_pad_nd", "self pad value");

    public static Tensor Reshape(Tensor x, long[] shape) => reshape.Call(x, shape);
    public static Tensor Unsqueeze(Tensor x, int dim) => unsqueeze.Call(x, (long)dim);
    public static Tensor Squeeze(Tensor x, int dim) => squeeze.Call(x, (long)dim);
    public static Tensor Expand(Tensor x, long[] shape) => expand.Call(x, shape);
    public static Tensor Transpose(Tensor x, int first, int second) => transpose.Call(x, (long)first, (long)second);
    public static Tensor Permute(Tensor x, long[] dims) => permute.Call(x, dims);
    public static Tensor Flatten(Tensor x, int first) => flatten.Call(x, (long)first, -1L);
    public static Tensor Cat(Tensor[] tensors, int dim) => cat.Call(tensors, (long)dim);
    public static Tensor Stack(Tensor[] tensors, int dim) => stack.Call(tensors, (long)dim);
    public static Tensor Select(Tensor x, int dim, long index) => select.Call(x, (long)dim, index);
    public static Tensor Slice(Tensor x, int dim, long start, long end) => slice.Call(x, (long)dim, start, end, 1L);
    public static Tensor IndexSelect(Tensor x, int dim, Tensor index) => indexSelect.Call(x, (long)dim, index);
    public static Tensor Gather(Tensor x, int dim, Tensor index) => gather.Call(x, (long)dim, index);
    public static Tensor Pad(Tensor x, long[] amounts) => pad.Call(x, amounts);

    // In place
    private static readonly Operator copyInto = new("aten::copy_", "self src");
    private static readonly Operator addInto = new("aten::add_.Tensor", "self other");
    private static readonly Operator reluInto = new("aten::relu_", "self");
    private static readonly Operator fillInto = new("aten::fill_.Scalar", "self value");
    private static readonly Operator indexCopyInto = new("aten::index_copy_", "self dim index source");
    private static readonly Operator foreachAdd = new("aten::_foreach_add.List", "self other alpha");
    private static readonly Operator foreachAddInto = new("aten::_foreach_add_.List", "self other alpha");
    private static readonly Operator foreachAddNumberInto = new("aten::_foreach_add_.Scalar", "self scalar");
    private static readonly Operator foreachMulInto = new("aten::_foreach_mul_.Scalar", "self scalar");
    private static readonly Operator foreachAddMulInto = new("aten::_foreach_addcmul_.Scalar", "self tensor1 tensor2 value");
    private static readonly Operator foreachAddDivInto = new("aten::_foreach_addcdiv_.Scalar", "self tensor1 tensor2 value");
    private static readonly Operator foreachMul = new("aten::_foreach_mul.List", "self other");
    private static readonly Operator foreachSqrt = new("aten::_foreach_sqrt", "self");

    public static void CopyInto(Tensor target, Tensor source) => copyInto.Do(target, source);
    public static void AddInto(Tensor target, Tensor source) => addInto.Do(target, source);
    public static void ReluInto(Tensor target) => reluInto.Do(target);
    public static void FillInto(Tensor target, double value) => fillInto.Do(target, value);
    public static void IndexCopyInto(Tensor target, int dim, Tensor index, Tensor source) =>
        indexCopyInto.Do(target, (long)dim, index, source);
    public static Tensor[] ForeachAdd(Tensor[] a, Tensor[] b, double alpha) => foreachAdd.CallMany(a, b, alpha);
    public static void ForeachAddInto(Tensor[] target, Tensor[] source, double alpha) => foreachAddInto.Do(target, source, alpha);
    public static void ForeachAddNumberInto(Tensor[] target, long value) => foreachAddNumberInto.Do(target, value);
    public static void ForeachMulInto(Tensor[] target, double factor) => foreachMulInto.Do(target, factor);
    public static void ForeachAddMulInto(Tensor[] target, Tensor[] a, Tensor[] b, double factor) => foreachAddMulInto.Do(target, a, b, factor);
    public static void ForeachAddDivInto(Tensor[] target, Tensor[] a, Tensor[] b, double factor) => foreachAddDivInto.Do(target, a, b, factor);
    public static Tensor[] ForeachMul(Tensor[] a, Tensor[] b) => foreachMul.CallMany(a, b);
    public static Tensor[] ForeachSqrt(Tensor[] x) => foreachSqrt.CallMany(x);
}
