using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using TorchSharp;
using static TorchSharp.torch;
using static Ctkd.Engine.Dispatcher;
using Tensor = TorchSharp.torch.Tensor;

namespace Ctkd.Engine;

/// <summary>
/// Convolutions with the following sum and ReLU in one pass over memory, for inference. oneDNN fuses them on the CPU
/// (channels innermost, float32 and bfloat16), cuDNN on CUDA devices. Otherwise, and if gradients are required,
/// separate operators compute the same.
/// </summary>
public static class FusedConvolution
{
    /// <summary>Whether the CPU fuses: libtorch includes oneDNN on x86-64, except on macOS, and it may be off.</summary>
    public static bool OnCpu { get; } =
        RuntimeInformation.ProcessArchitecture == Architecture.X64 && !OperatingSystem.IsMacOS() && Natives.Load().UsesOneDnn;

    // oneDNN has bfloat16 kernels only for these processors.
    private static readonly bool bf16OnCpu = OnCpu && Avx512BW.IsSupported;

    /// <summary>Computes relu(conv x). A bfloat16 weight rounds its input to bfloat16.</summary>
    public static Tensor Relu(Tensor input, Tensor weight, Tensor? bias, long stride, long padding, long groups)
    {
        var x = Rounded(input, weight);
        return Fuser(x, weight, bias, null, groups) switch
        {
            By.OneDnn => Call("mkldnn::_convolution_pointwise"u8, [],
                [Of(x), Arranged(weight, x, stride, padding, groups), Maybe(bias), Pair(padding), Pair(stride), Pair(1), Of(groups), Of("relu"u8), NoScalars(), None]),
            By.CuDnn => Call("aten::cudnn_convolution_relu"u8, [],
                [Of(x), Of(weight), Maybe(bias), Pair(stride), Pair(padding), Pair(1), Of(groups)]),
            _ => InSteps(null, x, weight, bias, stride, padding, groups),
        };
    }

    /// <summary>Computes relu(residual + conv x), as <see cref="Relu"/>. May overwrite the residual and return it.</summary>
    public static Tensor AddRelu(Tensor residual, Tensor input, Tensor weight, Tensor? bias, long stride, long padding, long groups)
    {
        var x = Rounded(input, weight);
        switch (Fuser(x, weight, bias, residual, groups))
        {
            case By.OneDnn:
                Span<ulong> stack =
                    [Of(residual), Of(x), Arranged(weight, x, stride, padding, groups), Maybe(bias), Pair(padding), Pair(stride), Pair(1), Of(groups), Of("add"u8), None, Some(Of("relu"u8)), NoScalars(), None];
                Invoke("mkldnn::_convolution_pointwise_"u8, "binary"u8, stack);
                Drop(stack[0]);
                return residual;
            case By.CuDnn:
                return Call("aten::cudnn_convolution_add_relu"u8, [],
                    [Of(x), Of(weight), Of(residual), None, Maybe(bias), Pair(stride), Pair(padding), Pair(1), Of(groups)]);
            default:
                return InSteps(residual, x, weight, bias, stride, padding, groups);
        }
    }

    private enum By { Steps, OneDnn, CuDnn }

    private static By Fuser(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, long groups)
    {
        bool trains = is_grad_enabled()
            && (x.requires_grad || weight.requires_grad || bias is { requires_grad: true } || residual is { requires_grad: true });
        var type = weight.dtype;
        bool alike = x.dtype == type && (bias is null || bias.dtype == type) && (residual is null || residual.dtype == type);
        if (trains || !alike || x.ndim != 4 || weight.ndim != 4)
            return By.Steps;
        if (x.device_type == DeviceType.CUDA)
            return type != ScalarType.Float64 && groups == 1 && residual is not { device_type: not DeviceType.CUDA } ? By.CuDnn : By.Steps;
        bool fast = type == ScalarType.Float32 ? OnCpu : type == ScalarType.BFloat16 && bf16OnCpu;
        // A convolution cannot overwrite its own input.
        bool apart = residual is null || (Ops.IsChannelsLast(residual) && !SameMemory(residual, x));
        return fast && x.device_type == DeviceType.CPU && x.numel() > 0 && Ops.IsChannelsLast(x) && apart ? By.OneDnn : By.Steps;
    }

    // For dense tensors.
    private static bool SameMemory(Tensor a, Tensor b)
    {
        nint startA = Address(a), startB = Address(b);
        return startA < startB + (nint)(b.numel() * b.element_size()) && startB < startA + (nint)(a.numel() * a.element_size());
    }

    private static Tensor Rounded(Tensor x, Tensor weight) =>
        weight.dtype == ScalarType.BFloat16 && x.dtype != ScalarType.BFloat16 ? x.to_type(ScalarType.BFloat16) : x;

    private static Tensor InSteps(Tensor? residual, Tensor x, Tensor weight, Tensor? bias, long stride, long padding, long groups)
    {
        var y = Ops.Conv2d(x, weight, bias, stride, padding, groups);
        if (residual is not null)
            y.add_(residual);
        y.relu_();
        return y;
    }

    private static ulong Pair(long value) => Of([value, value]);

    private static ulong NoScalars() => Of(ReadOnlySpan<long>.Empty);

    // oneDNN needs a weight in its own layout, which depends on the input's shape. Rearranged weights are kept as
    // libtorch's references, since TorchSharp's tensors would be counted; they are freed when the garbage collector
    // frees the weight.
    private sealed class Arrangements
    {
        private const int most = 8; // shapes per weight: full batches and shorter last ones
        private readonly List<(long[] Shape, int Threads, long Stride, long Padding, long Groups, ulong Weight)> known = [];
        private long version = -1;

        ~Arrangements() => known.ForEach(one => Drop(one.Weight));

        public ulong For(Tensor weight, Tensor x, long stride, long padding, long groups)
        {
            lock (known)
            {
                long now = Version(weight);
                if (now != version)
                {
                    known.ForEach(one => Drop(one.Weight));
                    known.Clear();
                    version = now;
                }

                long[] shape = x.shape;
                int threads = get_num_threads();
                foreach (var one in known)
                    if (one.Threads == threads && one.Stride == stride && one.Padding == padding && one.Groups == groups && one.Shape.AsSpan().SequenceEqual(shape))
                        return Held(one.Weight);

                if (known.Count == most)
                {
                    Drop(known[0].Weight);
                    known.RemoveAt(0);
                }

                Span<ulong> stack = [Of(weight), Pair(padding), Pair(stride), Pair(1), Of(groups), Some(Of(shape))];
                Invoke("mkldnn::_reorder_convolution_weight"u8, [], stack);
                known.Add((shape, threads, stride, padding, groups, stack[0]));
                return Held(stack[0]);
            }

            // Otherwise the finaliser could drop the reference first.
            ulong Held(ulong arranged)
            {
                ulong again = Again(arranged);
                GC.KeepAlive(weight);
                GC.KeepAlive(this);
                return again;
            }
        }
    }

    private static readonly ConditionalWeakTable<Tensor, Arrangements> arrangements = [];

    private static ulong Arranged(Tensor weight, Tensor x, long stride, long padding, long groups) =>
        arrangements.GetOrCreateValue(weight).For(weight, x, stride, padding, groups);
}
