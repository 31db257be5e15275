using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;
using Job = Ctkd.Engine.NormKernels.Job;
using Mode = Ctkd.Engine.NormKernels.Mode;
using Pass = Ctkd.Engine.NormKernels.Pass;

namespace Ctkd.Engine;

/// <summary>
/// Batch normalisation in training together with the following sum and ReLU of residual networks: two passes over
/// memory forward and two backward, where libtorch's operators take up to twice as many. Needs a processor with 512-bit
/// vectors and images with channels innermost (<see cref="Suits"/>); otherwise libtorch's operators compute the same.
/// </summary>
public static unsafe class FusedNorm
{
    private const int MostChannels = 4096;

    /// <summary>
    /// Normalises each channel by mean and variance over batch and image: <c>y = (x - mean) / sqrt(var + eps) weight + bias</c>,
    /// and with <paramref name="relu"/> <c>max(0, y)</c>. Statistics are float32.
    /// </summary>
    /// <param name="x">Shape [N, C, H, W], float32 or bfloat16.</param>
    /// <param name="weight">Shape [C], float32, like the next three.</param>
    /// <param name="bias">Added to the normalised values.</param>
    /// <param name="runningMean">Updated in place: <c>(1 - momentum) runningMean + momentum mean</c>.</param>
    /// <param name="runningVar">Updated in place likewise, with the unbiased variance.</param>
    /// <param name="momentum">Weight of this batch in the running statistics, 0 to 1.</param>
    /// <param name="eps">Added to the variance.</param>
    /// <param name="relu">Whether a ReLU follows.</param>
    /// <returns>Shape, type and memory format as <paramref name="x"/>.</returns>
    public static Tensor BatchNormRelu(
        Tensor x, Tensor weight, Tensor bias, Tensor runningMean, Tensor runningVar, double momentum, double eps, bool relu) =>
        Apply(x, null, weight, bias, new Call(runningMean, runningVar, momentum, eps, relu));

    /// <summary>As <see cref="BatchNormRelu"/>, with a sum before the ReLU: <c>max(0, norm(x) + residual)</c>.</summary>
    /// <param name="x">Shape [N, C, H, W], float32 or bfloat16.</param>
    /// <param name="residual">Shape and type as <paramref name="x"/>.</param>
    /// <param name="weight">Shape [C], float32, like the next three.</param>
    /// <param name="bias">Added to the normalised values.</param>
    /// <param name="runningMean">Updated in place: <c>(1 - momentum) runningMean + momentum mean</c>.</param>
    /// <param name="runningVar">Updated in place likewise, with the unbiased variance.</param>
    /// <param name="momentum">Weight of this batch in the running statistics, 0 to 1.</param>
    /// <param name="eps">Added to the variance.</param>
    /// <param name="relu">Whether a ReLU follows.</param>
    /// <returns>Shape, type and memory format as <paramref name="x"/>.</returns>
    public static Tensor BatchNormAddRelu(
        Tensor x, Tensor residual, Tensor weight, Tensor bias, Tensor runningMean, Tensor runningVar, double momentum, double eps, bool relu) =>
        Apply(x, residual, weight, bias, new Call(runningMean, runningVar, momentum, eps, relu));

    /// <summary>
    /// Whether the kernels support a tensor: on the CPU, float32 or bfloat16, [N, C, H, W] dense with channels
    /// innermost, C a multiple of 16 up to 4,096, at least two values per channel.
    /// </summary>
    public static bool Suits(DeviceType device, ScalarType type, ReadOnlySpan<long> shape, ReadOnlySpan<long> strides)
    {
        if (device != DeviceType.CPU || type is not (ScalarType.Float32 or ScalarType.BFloat16) || shape.Length != 4)
            return false;
        long channels = shape[1], rows = shape[0] * shape[2] * shape[3];
        return channels % NormKernels.Width == 0 && channels is > 0 and <= MostChannels && rows is > 1 and <= int.MaxValue
            && strides[1] == 1
            && (shape[3] == 1 || strides[3] == channels)
            && (shape[2] == 1 || strides[2] == channels * shape[3])
            && (shape[0] == 1 || strides[0] == channels * shape[3] * shape[2]);
    }

    /// <summary>
    /// Frees the gradients that this thread's last backward pass returned: libtorch has taken them by the end of the
    /// pass. The next pass frees them too.
    /// </summary>
    public static void Release()
    {
        if (returned is null)
            return;
        foreach (var gradient in returned)
            gradient.Dispose();
        returned.Clear();
    }

    [ThreadStatic]
    private static List<Tensor>? returned;

    /// <summary>The arguments that are not variables of the graph.</summary>
    private sealed record Call(Tensor RunningMean, Tensor RunningVar, double Momentum, double Eps, bool Relu)
    {
        /// <summary>The forward result before it joins the graph, and its statistics: see <see cref="Mean"/>.</summary>
        public Tensor? Raw, Statistics;

        public Mode ModeOf(Tensor? residual) =>
            residual is null ? Relu ? Mode.Relu : Mode.Plain : Relu ? Mode.AddRelu : Mode.Add;
    }

    private static Tensor Apply(Tensor x, Tensor? residual, Tensor weight, Tensor bias, Call call)
    {
        Release();
        if (!NormKernels.Available || !IsSuited(x) || (residual is not null && !Alike(x, residual))
            || !IsRow(weight, x.shape[1]) || !IsRow(bias, x.shape[1]) || !IsRow(call.RunningMean, x.shape[1]) || !IsRow(call.RunningVar, x.shape[1]))
            return Operators(x, residual, weight, bias, call);
        bool recorded = is_grad_enabled()
            && (x.requires_grad || weight.requires_grad || bias.requires_grad || (residual?.requires_grad ?? false));
        var y = recorded ? Function.apply(x, weight, bias, residual!, call) : Forward(x, residual, weight, bias, call);
        call.Statistics!.Dispose();
        if (recorded)
            call.Raw!.Dispose();
        return y;
    }

    private static bool IsSuited(Tensor x) => Suits(x.device_type, x.dtype, x.shape, x.stride());

    private static bool Alike(Tensor x, Tensor other) =>
        other.dtype == x.dtype && other.shape.AsSpan().SequenceEqual(x.shape) && IsSuited(other);

    private static bool IsRow(Tensor row, long channels) =>
        row.device_type == DeviceType.CPU && row.dtype == ScalarType.Float32 && row.dim() == 1 && row.shape[0] == channels && row.is_contiguous();

    private static Tensor Operators(Tensor x, Tensor? residual, Tensor weight, Tensor bias, Call call)
    {
        var y = nn.functional.batch_norm(x, call.RunningMean, call.RunningVar, weight, bias, training: true, call.Momentum, call.Eps);
        if (residual is not null)
        {
            var normalised = y;
            y = normalised.add(residual);
            normalised.Dispose();
        }
        return call.Relu ? y.relu_() : y;
    }

    // ---- forward ----

    // Rows of the statistics kept for the backward pass.
    private const int Mean = 0, Deviation = 1, Scale = 2, Shift = 3, Rows = 4;

    private static Tensor Forward(Tensor x, Tensor? residual, Tensor weight, Tensor bias, Call call)
    {
        int channels = (int)x.shape[1];
        var y = call.Raw = empty_like(x);
        var statistics = call.Statistics = empty(Rows, channels);
        var job = JobOf(x, Pass.Moments, call.ModeOf(residual), Floats(statistics));
        job.Y = Bytes(y);
        job.R = residual is null ? null : Bytes(residual);
        int threads = get_num_threads();
        job.Sums = NewSums(job);
        try
        {
            NormKernels.Run(ref job, threads);
            Settle(job, Floats(weight), Floats(bias), Floats(statistics), Floats(call.RunningMean), Floats(call.RunningVar), call);
            job.Pass = Pass.Normalise;
            NormKernels.Run(ref job, threads);
        }
        finally
        {
            NativeMemory.AlignedFree(job.Sums);
        }
        // their addresses were in use until here
        GC.KeepAlive((x, residual, weight, bias, call));
        return y;
    }

    // Combines the chunks' means and variances (Chan, Golub and LeVeque 1983), in double.
    private static void Settle(in Job job, float* weight, float* bias, float* kept, float* runningMean, float* runningVar, Call call)
    {
        int channels = job.Channels;
        double rows = job.Rows;
        for (int c = 0; c < channels; c++)
        {
            double count = 0, mean = 0, squares = 0;
            for (int chunk = 0; chunk < job.Chunks; chunk++)
            {
                float* sums = job.Sums + (long)chunk * job.SumsStride + c;
                double n = job.RowsOf(chunk), sum = sums[channels], away = sums[0] + sum / n - mean;
                count += n;
                squares += sums[2 * channels] - sum * sum / n + away * away * (count - n) * n / count;
                mean += away * n / count;
            }
            // rounding can make a variance of zero negative; a NaN stays
            double variance = squares < 0 ? 0 : squares / rows, inverse = 1 / Math.Sqrt(variance + call.Eps);
            kept[Mean * channels + c] = (float)mean;
            kept[Deviation * channels + c] = (float)inverse;
            kept[Scale * channels + c] = (float)(weight[c] * inverse);
            kept[Shift * channels + c] = bias[c];
            runningMean[c] = (float)((1 - call.Momentum) * runningMean[c] + call.Momentum * mean);
            runningVar[c] = (float)((1 - call.Momentum) * runningVar[c] + call.Momentum * variance * rows / (rows - 1));
        }
    }

    private static Job JobOf(Tensor x, Pass pass, Mode mode, float* kept)
    {
        int channels = (int)x.shape[1];
        return new Job
        {
            Pass = pass,
            Mode = mode,
            BFloat16 = x.dtype == ScalarType.BFloat16,
            Rows = x.numel() / channels,
            Channels = channels,
            X = Bytes(x),
            Mean = kept + Mean * channels,
            Scale = kept + Scale * channels,
            Shift = kept + Shift * channels,
        };
    }

    private static float* NewSums(in Job job) =>
        (float*)NativeMemory.AlignedAlloc((nuint)job.Chunks * (nuint)job.SumsStride * sizeof(float), 64);

    private static byte* Bytes(Tensor x) => (byte*)Dispatcher.Address(x);

    private static float* Floats(Tensor x) => (float*)Dispatcher.Address(x);

    // ---- backward ----

    /// <summary>Arguments: x, weight, bias, residual or null, the call.</summary>
    private sealed class Function : autograd.SingleTensorFunction<Function>
    {
        public override string Name => nameof(FusedNorm);

        public override Tensor forward(autograd.AutogradContext context, params object[] arguments)
        {
            var (x, weight, bias, residual, call) = ((Tensor)arguments[0], (Tensor)arguments[1], (Tensor)arguments[2], arguments[3] as Tensor, (Call)arguments[4]);
            var y = Forward(x, residual, weight, bias, call);
            var mode = call.ModeOf(residual);
            // without a residual, x determines the ReLU's mask
            context.save_for_backward([x, weight, call.Statistics!, .. mode == Mode.AddRelu ? [y] : Array.Empty<Tensor>()]);
            context.save_data(nameof(Mode), mode);
            context.save_data(nameof(Call.Eps), call.Eps);
            return y;
        }

        public override List<Tensor> backward(autograd.AutogradContext context, Tensor dy)
        {
            Release();
            var mode = (Mode)context.get_data(nameof(Mode));
            using (dy)
            using (NewDisposeScope())
            {
                var saved = context.get_saved_variables();
                var gradients = is_grad_enabled()
                    ? Differentiable(saved, dy, mode, (double)context.get_data(nameof(Call.Eps)))
                    : Backward(saved[0], saved[1], saved[2], mode == Mode.AddRelu ? saved[3] : null, dy, mode);
                // libtorch reads them after this returns
                returned ??= [];
                foreach (var gradient in gradients)
                    if (gradient is not null)
                        returned.Add(gradient.DetachFromDisposeScope());
                return [gradients[0]!, gradients[1]!, gradients[2]!, gradients[3]!, null!];
            }
        }
    }

    // Returns dx, dweight, dbias and, with a residual, its gradient.
    private static Tensor?[] Backward(Tensor x, Tensor weight, Tensor statistics, Tensor? y, Tensor dy, Mode mode)
    {
        int channels = (int)x.shape[1];
        var g = IsSuited(dy) ? dy : Dispatcher.ChannelsLast(dy);
        Tensor dx = empty_like(x), dWeight = empty(channels), dBias = empty(channels);
        var dResidual = mode switch { Mode.AddRelu => empty_like(x), Mode.Add => g.alias(), _ => null };
        var terms = empty(3, channels);
        float* kept = Floats(statistics), scales = Floats(terms);
        var job = JobOf(x, Pass.Reduce, mode, kept);
        job.Y = y is null ? null : Bytes(y);
        job.Dy = Bytes(g);
        job.Dx = Bytes(dx);
        job.Dr = mode == Mode.AddRelu ? Bytes(dResidual!) : null;
        job.A = scales;
        job.B = scales + channels;
        job.D = scales + 2 * channels;
        int threads = get_num_threads();
        job.Sums = NewSums(job);
        try
        {
            NormKernels.Run(ref job, threads);
            Settle(job, Floats(weight), kept, Floats(dWeight), Floats(dBias));
            job.Pass = Pass.Differentiate;
            NormKernels.Run(ref job, threads);
        }
        finally
        {
            NativeMemory.AlignedFree(job.Sums);
        }
        GC.KeepAlive((x, weight, statistics, y, g, terms));
        return [dx, dWeight, dBias, dResidual];
    }

    // dx = weight inverse (g - dbias / n - (x - mean) inverse dweight / n), as a, b and d of Pass.Differentiate.
    private static void Settle(in Job job, float* weight, float* kept, float* dWeight, float* dBias)
    {
        int channels = job.Channels;
        double rows = job.Rows;
        for (int c = 0; c < channels; c++)
        {
            double sum = 0, product = 0;
            for (int chunk = 0; chunk < job.Chunks; chunk++)
            {
                float* sums = job.Sums + (long)chunk * job.SumsStride + c;
                sum += sums[0];
                product += sums[channels];
            }
            double inverse = kept[Deviation * channels + c], a = weight[c] * inverse;
            dBias[c] = (float)sum;
            dWeight[c] = (float)(product * inverse);
            job.A[c] = (float)a;
            job.B[c] = (float)(-a * inverse * inverse * product / rows);
            job.D[c] = (float)(-a * sum / rows);
        }
    }

    // The same with libtorch's operators, which record themselves: for second derivatives.
    private static Tensor?[] Differentiable(List<Tensor> saved, Tensor dy, Mode mode, double eps)
    {
        var (x, weight, statistics) = (saved[0], saved[1], saved[2]);
        long channels = x.shape[1];
        var g = mode switch
        {
            Mode.AddRelu => dy.mul(saved[3].gt(0).to_type(dy.dtype)),
            Mode.Relu => dy.mul(x.sub(Row(Mean)).mul(Row(Scale)).add(Row(Shift)).gt(0).to_type(dy.dtype)),
            _ => dy.alias(),
        };
        Span<ulong> stack =
        [
            Dispatcher.Of(g), Dispatcher.Of(x), Dispatcher.Maybe(weight), Dispatcher.None, Dispatcher.None,
            Dispatcher.Maybe(statistics.select(0, Mean)), Dispatcher.Maybe(statistics.select(0, Deviation)),
            Dispatcher.Of(true), Dispatcher.Of(eps), Mask(),
        ];
        Dispatcher.Invoke("aten::native_batch_norm_backward"u8, [], stack);
        return
        [
            Dispatcher.Take(stack[0]), Dispatcher.Take(stack[1]), Dispatcher.Take(stack[2]),
            mode is Mode.Add or Mode.AddRelu ? g : null,
        ];

        Tensor Row(int row) => statistics.select(0, row).reshape(1, channels, 1, 1);

        // a list of booleans has the same words as a list of integers
        static ulong Mask() => Dispatcher.Of((ReadOnlySpan<long>)[1, 1, 1]);
    }
}
