using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;
using static Ctkd.Engine.Dispatcher;
using F = TorchSharp.torch.nn.functional;
using Tensor = TorchSharp.torch.Tensor;

namespace Ctkd.Engine;

#pragma warning disable CS1591 // The meaning of each operation is documented once, on the seam: Tensor.fsi.

/// <summary>
/// The operations of <c>Tensor.fsi</c>, in its order: TorchSharp's methods, and libtorch's operators by name where
/// those are missing.
/// </summary>
public static class Ops
{
    // Creation, reading and conversion
    public static Tensor Create<T>(ReadOnlySpan<T> values, long[] shape, ScalarType dtype) where T : unmanaged =>
        FromBytes(MemoryMarshal.AsBytes(values), shape, dtype);

    public static Tensor FromBytes(ReadOnlySpan<byte> bytes, long[] shape, ScalarType dtype)
    {
        Natives.Load();
        var x = empty(shape, dtype: dtype);
        if (x.numel() * x.element_size() != bytes.Length)
        {
            x.Dispose();
            throw new ArgumentException($"{bytes.Length} bytes do not fill [{string.Join(", ", shape)}] of {dtype}", nameof(bytes));
        }

        if (bytes.Length > 0)
            bytes.CopyTo(x.bytes);
        return x;
    }

    public static byte[] ToBytes(Tensor x)
    {
        using var scope = NewDisposeScope();
        var here = x.detach().cpu().contiguous();
        return here.numel() == 0 ? [] : here.bytes.ToArray();
    }

    public static Tensor Zeros(long[] shape, ScalarType dtype, Device device) => zeros(shape, dtype: dtype, device: device.ToTorch());

    public static Tensor Full(long[] shape, double value, ScalarType dtype, Device device)
    {
        Natives.Load();
        using Scalar number = value;
        return full(shape, number, dtype: dtype, device: device.ToTorch());
    }

    public static Tensor Arange(long start, long end, long step, Device device)
    {
        Natives.Load();
        using Scalar first = start, last = end, stride = step;
        return arange(first, last, stride, dtype: ScalarType.Int64, device: device.ToTorch());
    }

    public static Tensor To(Tensor x, ScalarType dtype) => x.to_type(dtype);
    public static Tensor To(Tensor x, Device device) => x.to(device.ToTorch());

    public static bool IsChannelsLast(Tensor x)
    {
        if (x.ndim != 4)
            return false;
        long[] size = x.shape, stride = x.stride();
        return stride[1] == 1 && stride[3] == size[1] && stride[2] == size[3] * size[1] && stride[0] == size[2] * size[3] * size[1];
    }

    // Element-wise
    public static Tensor AddScalar(Tensor x, double number) => WithScalar(number, x.add);
    public static Tensor MulScalar(Tensor x, double number) => WithScalar(number, x.mul);
    public static Tensor AddWhole(Tensor x, long number) => WithScalar(number, x.add);
    public static Tensor MulWhole(Tensor x, long number) => WithScalar(number, x.mul);
    public static Tensor Softplus(Tensor x, double threshold) => F.softplus(x, 1.0, threshold);

    public static Tensor Clamp(Tensor x, double low, double high)
    {
        using Scalar least = low, most = high;
        return x.clamp(least, most);
    }

    public static Tensor EqScalar(Tensor x, double number) => WithScalar(number, x.eq);
    public static Tensor LtScalar(Tensor x, double number) => WithScalar(number, x.lt);

    private static Tensor WithScalar(Scalar number, Func<Scalar, Tensor> operation)
    {
        using (number)
            return operation(number);
    }

    public static Tensor And(Tensor x, long mask)
    {
        using var b = tensor(mask, device: x.device);
        return x.bitwise_and(b);
    }

    public static Tensor ShiftRight(Tensor x, int bits)
    {
        using var b = tensor((long)bits, device: x.device);
        return x.bitwise_right_shift(b);
    }

    // Reductions
    public static Tensor Mean(Tensor x, params long[] dims) => x.mean(dims);
    public static Tensor Max(Tensor x) => x.amax([]);
    public static Tensor Max(Tensor x, long dim) => x.amax([dim]);
    public static Tensor Min(Tensor x) => x.amin([]);
    public static Tensor Norm(Tensor x) => linalg.vector_norm(x);

    // Layers
    // TorchSharp's own method lets C++ errors end the process.
    public static Tensor MatMul(Tensor a, Tensor b)
    {
        long[] left = a.shape, right = b.shape;
        if (left.Length == 0 || right.Length == 0 || left[^1] != right[^Math.Min(2, right.Length)])
            throw new ArgumentException($"no product of [{string.Join(", ", left)}] and [{string.Join(", ", right)}]");
        return Call("aten::matmul"u8, [], [Of(a), Of(b)]);
    }

    public static Tensor Conv2d(Tensor x, Tensor weight, Tensor? bias, long stride, long padding, long groups) =>
        F.conv2d(x, weight, bias, strides: [stride, stride], padding: [padding, padding], dilation: [1, 1], groups: groups);

    public static Tensor ConvTranspose2d(Tensor x, Tensor weight, Tensor? bias, long stride, long padding) =>
        F.conv_transpose2d(x, weight, bias, strides: [stride, stride], padding: [padding, padding]);

    public static Tensor BatchNorm(Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor variance, double epsilon) =>
        F.batch_norm(x, mean, variance, weight, bias, training: false, eps: epsilon);

    public static Tensor MaxPool2d(Tensor x, long kernel, long stride, long padding) =>
        F.max_pool2d(x, [kernel, kernel], [stride, stride], [padding, padding]);

    public static Tensor AvgPool2d(Tensor x, long kernel, long stride, long padding) =>
        F.avg_pool2d(x, [kernel, kernel], [stride, stride], [padding, padding]);

    public static Tensor Lstm(Tensor x, Tensor[] start, Tensor[] weights)
    {
        const bool biases = true, train = true, bidirectional = false, batchFirst = false;
        Span<ulong> stack = [Of(x), Of(start), Of(weights), Of(biases), Of(1L), Of(0.0), Of(train), Of(bidirectional), Of(batchFirst)];
        Invoke("aten::lstm"u8, "input"u8, stack);
        Drop(stack[1]);
        Drop(stack[2]);
        return Take(stack[0]);
    }

    public static Tensor CrossEntropy(Tensor logits, Tensor labels, bool reduce) =>
        F.cross_entropy(logits, labels, reduction: reduce ? nn.Reduction.Mean : nn.Reduction.None);

    // In place
    public static void FillInto(Tensor x, double value)
    {
        using Scalar number = value;
        x.fill_(number);
    }

    // Optimisers and lists of tensors

    /// <summary>Adds an integer to integer tensors, in place.</summary>
    public static void AddWholeInto(Tensor[] targets, long number)
    {
        if (targets.Length == 0)
            return;
        using var scope = NewDisposeScope();
        // The overload with a number takes a Scalar; the one for target + number * 1 * 1 takes tensors.
        var one = ones_like(targets[0]);
        var factors = full([targets.Length], number, dtype: ScalarType.Int64);
        var many = new Tensor[targets.Length];
        Array.Fill(many, one);
        Invoke("aten::_foreach_addcmul_"u8, "Tensor"u8, [Of(targets), Of(many), Of(many), Of(factors)]);
    }

    /// <summary>Does one step of SGD for all tensors, in place.</summary>
    public static void Sgd(Tensor[] parameters, Tensor[] gradients, Tensor[] velocities, Tensor rate, double momentum, double decay, bool nesterov)
    {
        const double dampening = 0;
        const bool maximize = false, first = false;
        using var scope = NewDisposeScope();
        // The operator overwrites given velocities even without momentum.
        var kept = momentum == 0 ? [] : velocities;
        RequireSameLayout(parameters, kept, nameof(velocities));
        Invoke("aten::_fused_sgd_"u8, "tensor_lr"u8,
            [Of(parameters), Of(WithLayoutOf(parameters, gradients)), Of(kept), Of(decay), Of(momentum), Of(rate), Of(dampening), Of(nesterov), Of(maximize), Of(first), None, None]);
    }

    /// <summary>Does one step of Adam for all tensors, in place; <paramref name="step"/> counts from 1, float32 [].</summary>
    public static void Adam(Tensor[] parameters, Tensor[] gradients, Tensor[] first, Tensor[] second, Tensor step, double rate, double beta1, double beta2, double epsilon)
    {
        const double decay = 0;
        using var scope = NewDisposeScope();
        FusedAdam("aten::_fused_adam_"u8, [], parameters, gradients, first, second, step, Of(rate), beta1, beta2, epsilon, decay);
    }

    /// <summary>Does one step of Adam with decoupled weight decay, in place; <paramref name="step"/> counts from 1, float32 [].</summary>
    public static void AdamW(Tensor[] parameters, Tensor[] gradients, Tensor[] first, Tensor[] second, Tensor step, Tensor rate, double beta1, double beta2, double epsilon, double decay)
    {
        using var scope = NewDisposeScope();
        FusedAdam("aten::_fused_adamw_"u8, "tensor_lr"u8, parameters, gradients, first, second, step, Of(rate), beta1, beta2, epsilon, decay);
    }

    /// <summary>Moves every target by a share of the way to its source, in place; the share is a 0-d tensor.</summary>
    public static void LerpInto(Tensor[] targets, Tensor[] sources, Tensor share)
    {
        if (targets.Length == 0)
            return;
        var shares = new Tensor[targets.Length];
        Array.Fill(shares, share);
        Invoke("aten::_foreach_lerp_"u8, "List"u8, [Of(targets), Of(sources), Of(shares)]);
    }

    private static void FusedAdam(ReadOnlySpan<byte> name, ReadOnlySpan<byte> overload, Tensor[] parameters, Tensor[] gradients, Tensor[] first, Tensor[] second, Tensor step, ulong rate, double beta1, double beta2, double epsilon, double decay)
    {
        const bool amsgrad = false, maximize = false;
        RequireSameLayout(parameters, first, nameof(first));
        RequireSameLayout(parameters, second, nameof(second));
        var steps = new Tensor[parameters.Length];
        Array.Fill(steps, step);
        Invoke(name, overload,
            [Of(parameters), Of(WithLayoutOf(parameters, gradients)), Of(first), Of(second), Of(ReadOnlySpan<Tensor>.Empty), Of(steps), rate, Of(beta1), Of(beta2), Of(decay), Of(epsilon), Of(amsgrad), Of(maximize), None, None]);
    }

    // The fused optimisers ignore strides. Their results cannot go to a copy.
    private static void RequireSameLayout(Tensor[] parameters, Tensor[] state, string name)
    {
        for (int i = 0; i < state.Length; i++)
            if (!parameters[i].shape.AsSpan().SequenceEqual(state[i].shape) || !parameters[i].stride().AsSpan().SequenceEqual(state[i].stride()))
                throw new ArgumentException($"tensor {i} does not lie in memory as its parameter: make it by a copy of that", name);
    }

    // Strides of a gradient may be 0.
    private static Tensor[] WithLayoutOf(Tensor[] parameters, Tensor[] gradients)
    {
        var result = gradients;
        for (int i = 0; i < parameters.Length; i++)
        {
            var (p, g) = (parameters[i], gradients[i]);
            if (!p.shape.AsSpan().SequenceEqual(g.shape))
                throw new ArgumentException($"gradient {i} has the shape [{string.Join(", ", g.shape)}], its parameter [{string.Join(", ", p.shape)}]", nameof(gradients));
            if (p.stride().AsSpan().SequenceEqual(g.stride()))
                continue;
            if (ReferenceEquals(result, gradients))
                result = (Tensor[])gradients.Clone();
            result[i] = empty_like(p).copy_(g);
        }

        return result;
    }
}
