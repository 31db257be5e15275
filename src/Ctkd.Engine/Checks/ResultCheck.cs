using TorchSharp;
using static TorchSharp.torch;
using static Ctkd.Engine.Dispatcher;
using F = TorchSharp.torch.nn.functional;

namespace Ctkd.Engine;

/// <summary>
/// Compares operations with known results. TorchSharp's native library is compiled for one version of libtorch: with
/// another it may load and then misread shapes, types and lists. The numbers are small integers and their quotients,
/// which tensor cores with a 10-bit mantissa compute exactly too.
/// </summary>
internal static class ResultCheck
{
    private sealed record Case(string Name, double[] Wanted, Func<double[]> Found);

    private static readonly EqualityComparer<double> near =
        EqualityComparer<double>.Create((a, b) => Math.Abs(a - b) <= 1e-5 * Math.Max(1, Math.Abs(b)), _ => 0);

    private const int most = 3;

    /// <summary>Returns the first operations with wrong results, or null.</summary>
    public static string? Run()
    {
        Natives.Load();
        var faults = On(CPU).Concat(cuda.is_available() ? On(torch.CUDA) : []).Take(most + 1).ToList();
        return faults.Count == 0 ? null : string.Join("; ", faults.Take(most)) + (faults.Count > most ? " and more" : "");
    }

    private static IEnumerable<string> On(torch.Device device)
    {
        foreach (var (name, wanted, found) in new[] { Shapes(device), Values(device), Layers(device), Training(device), ByName(device) }.SelectMany(cases => cases))
        {
            using var scope = NewDisposeScope();
            string? fault = null;
            try
            {
                double[] values = found();
                if (!values.SequenceEqual(wanted, near))
                    fault = $"{Text(values)} instead of {Text(wanted)}";
            }
            catch (Exception error)
            {
                fault = error.Message.Split('\n')[0];
            }

            if (fault is not null)
                yield return $"{name} ({device.type}): {fault}";
        }
    }

    private static IEnumerable<Case> Shapes(torch.Device device)
    {
        yield return new("numel", [24], () => [Iota(device, 2, 3, 4).numel()]);
        yield return new("shape", [2, 3, 4], () => Of(Iota(device, 2, 3, 4).shape));
        yield return new("strides", [12, 4, 1], () => Of(Iota(device, 2, 3, 4).stride()));
        yield return new("strides of a transposed tensor", [4, 12, 1], () => Of(Iota(device, 2, 3, 4).transpose(0, 1).stride()));
        yield return new("a tensor without elements", [0, 5], () => Of(Iota(device, 0, 5).shape));
        yield return new("device", [device.type == DeviceType.CPU ? 0 : 1], () => [(int)Iota(device, 1).device_type]);
        (ScalarType, int)[] types =
            [(ScalarType.Float32, 4), (ScalarType.Float64, 8), (ScalarType.Int64, 8), (ScalarType.BFloat16, 2), (ScalarType.Byte, 1), (ScalarType.Bool, 1)];
        foreach (var (type, bytes) in types)
            yield return new($"type {type}", [(int)type, bytes, 6], () =>
            {
                var x = zeros(2, 3, dtype: type, device: device);
                return [(int)x.dtype, x.element_size(), x.numel()];
            });
        yield return new("requires_grad", [0, 1], () => [Iota(device, 1).requires_grad ? 1 : 0, Iota(device, 1).requires_grad_().requires_grad ? 1 : 0]);
        yield return new("bytes", [1, 2, 255], () => [.. Ops.ToBytes(Ops.FromBytes([1, 2, 255], [3], ScalarType.Byte)).Select(b => (double)b)]);
        yield return new("one number", [7], () => [Iota(device, 8)[7].item<float>()]);
    }

    private static IEnumerable<Case> Values(torch.Device device)
    {
        yield return new("reading", [0, 1, 2, 3, 4, 5], () => Read(Iota(device, 2, 3)));
        yield return new("sum", [276], () => Read(Iota(device, 2, 3, 4).sum()));
        yield return new("sum of a dimension", [12, 15, 18, 21, 48, 51, 54, 57], () => Read(Iota(device, 2, 3, 4).sum(1)));
        yield return new("mean", [2.5], () => Read(Iota(device, 6).mean()));
        yield return new("transpose", [0, 3, 1, 4, 2, 5], () => Read(Iota(device, 2, 3).t()));
        yield return new("broadcast", [0, 1, 1, 2], () => Read(Iota(device, 2, 1) + Iota(device, 1, 2)));
        yield return new("matmul", [10, 13, 28, 40], () => Read(Iota(device, 2, 3).matmul(Iota(device, 3, 2))));
        yield return new("rounding to bfloat16", [256, 258, 1], () => Read(tensor(new[] { 257f, 258f, 1.001f }).to(device).to_type(ScalarType.BFloat16)));
        yield return new("topk", [5, 4, 5, 4], () =>
        {
            var (values, indexes) = Iota(device, 6).topk(2);
            return [.. Read(values), .. Read(indexes)];
        });
        yield return new("sort", [3, 2, 1, 0, 1, 0, 2, 3], () =>
        {
            var (values, indexes) = Whole(device, 2, 3, 1, 0).sort(descending: true);
            return [.. Read(values), .. Read(indexes)];
        });
        yield return new("argmax", [2, 2], () => Read(Iota(device, 2, 3).argmax(1)));
        yield return new("gather", [2, 3], () => Read(Iota(device, 2, 3).gather(1, Whole(device, 2, 0).view(2, 1))));
        yield return new("index_select", [3, 4, 5, 0, 1, 2], () => Read(Iota(device, 2, 3).index_select(0, Whole(device, 1, 0))));
        yield return new("where", [0, 0, 2, 3], () => Read(where(Whole(device, 0, 0, 1, 1).to_type(ScalarType.Bool), Iota(device, 4), zeros(4, device: device))));
        yield return new("cat", [0, 1, 2, 0, 1], () => Read(cat([Iota(device, 3), Iota(device, 2)])));
        yield return new("split", [2, 2, 1, 4], () =>
        {
            var parts = Iota(device, 5).split(2);
            return [parts[0].numel(), parts[1].numel(), parts[2].numel(), parts[2].item<float>()];
        });
        yield return new("cumsum", [0, 1, 3, 6], () => Read(Iota(device, 4).cumsum(0)));
        yield return new("softmax", [0.25, 0.25, 0.25, 0.25], () => Read(zeros(1, 4, device: device).softmax(1)));
        yield return new("a seed", [0, 1], () =>
        {
            Tensor Draw()
            {
                Runtime.Seed(device.type == DeviceType.CPU ? Device.Cpu : Device.Cuda(Math.Max(device.index, 0)), 7);
                return randn(64, device: device);
            }

            var first = Draw();
            return [.. Read((first - Draw()).abs().sum()), Read(first.abs().sum())[0] > 1 ? 1 : 0];
        });
    }

    private static IEnumerable<Case> Layers(torch.Device device)
    {
        yield return new("conv2d", [234, 252, 306, 324], () => Read(F.conv2d(Iota(device, 1, 2, 4, 4), ones(1, 2, 3, 3, device: device))));
        yield return new("conv2d with stride and padding", [10, 24, 51, 90], () => Read(F.conv2d(Iota(device, 1, 1, 4, 4), ones(1, 1, 3, 3, device: device), strides: [2, 2], padding: [1, 1])));
        yield return new("conv2d in bfloat16", [45, 54, 81, 90], () => Read(F.conv2d(
            Iota(device, 1, 1, 4, 4).to_type(ScalarType.BFloat16), ones(1, 1, 3, 3, dtype: ScalarType.BFloat16, device: device))));
        yield return new("max_pool2d", [5, 7, 13, 15], () => Read(F.max_pool2d(Iota(device, 1, 1, 4, 4), 2)));
        yield return new("linear", [1, 4], () => Read(F.linear(Iota(device, 1, 2), Iota(device, 2, 2), Iota(device, 2))));
        yield return new("batch_norm", [-1, -1, 1, 1, 0.2, 0.2, 1.7, 1.1], () =>
        {
            var (mean, variance) = (zeros(2, device: device), ones(2, device: device));
            var x = tensor(new float[] { 0, 1, 4, 3 }, 2, 2).to(device);
            var y = F.batch_norm(x, mean, variance, training: true, momentum: 0.1, eps: 0);
            return [.. Read(y), .. Read(mean), .. Read(variance)];
        });
        yield return new("cross_entropy", [Math.Log(4)], () => Read(F.cross_entropy(zeros(2, 4, device: device), Whole(device, 1, 3))));
    }

    private static IEnumerable<Case> Training(torch.Device device)
    {
        yield return new("backward", [0, 3, 12], () =>
        {
            var x = Iota(device, 3).requires_grad_();
            (x * x * x).sum().backward();
            return Read(x.grad!);
        });
        yield return new("gradients of conv2d", [8, 12, 20, 24, 1, 2, 1, 2, 4, 2, 1, 2, 1], () =>
        {
            var (x, w) = (Iota(device, 1, 1, 3, 3).requires_grad_(), ones(1, 1, 2, 2, device: device).requires_grad_());
            var gradients = autograd.grad([F.conv2d(x, w).sum()], [w, x]);
            return [.. Read(gradients[0]), .. Read(gradients[1])];
        });
        yield return new("gradients of batch_norm", [0.25, 0, -0.25, 0, -1, 1], () =>
        {
            var x = tensor(new float[] { 0, 4, 0, 4 }, 4, 1).to(device).requires_grad_();
            var (weight, bias) = (ones(1, device: device).requires_grad_(), zeros(1, device: device).requires_grad_());
            var y = F.batch_norm(x, zeros(1, device: device), ones(1, device: device), weight, bias, training: true, eps: 0);
            var gradients = autograd.grad([y[0].sum()], [x, weight, bias]);
            return [.. gradients.SelectMany(Read)];
        });
        yield return new("SGD with momentum", [-2], () =>
        {
            using var p = new TorchSharp.Modules.Parameter(full(1, 4f, device: device));
            using var optimiser = optim.SGD([p], learningRate: 0.5, momentum: 0.5);
            for (int i = 0; i < 2; i++)
            {
                optimiser.zero_grad();
                (p * p).sum().backward();
                optimiser.step();
            }

            return Read(p);
        });
    }

    private static IEnumerable<Case> ByName(torch.Device device)
    {
        yield return new("channels last", [8, 1, 4, 2, 0, 1, 2, 3, 4, 5, 6, 7], () =>
        {
            var x = ChannelsLast(Iota(device, 1, 2, 2, 2));
            return [.. Of(x.stride()), .. Read(x)];
        });
        yield return new("a list of results", [0, 1, 2, 3], () => [.. CallMany("aten::unbind"u8, "int"u8, [Dispatcher.Of(Iota(device, 2, 2)), Dispatcher.Of(0L)]).SelectMany(Read)]);
        yield return new("foreach", [3, 3, 0, 3, 6], () =>
        {
            Tensor[] xs = [ones(2, device: device), Iota(device, 3)];
            Invoke("aten::_foreach_mul_"u8, "Tensor"u8, [Dispatcher.Of(xs), Dispatcher.Of(full(1, 3f, device: device)[0])]);
            return [.. xs.SelectMany(Read)];
        });
        yield return new("a gradient through a call by name", [0, 2, 4], () =>
        {
            var x = Iota(device, 3).requires_grad_();
            Call("aten::mul"u8, "Tensor"u8, [Dispatcher.Of(x), Dispatcher.Of(x)]).sum().backward();
            return Read(x.grad!);
        });
        yield return new("an error", [1], () =>
        {
            try
            {
                Iota(device, 2).add(Iota(device, 3));
                return [0];
            }
            catch (System.Runtime.InteropServices.ExternalException)
            {
                return [1];
            }
        });
    }

    private static Tensor Iota(torch.Device device, params long[] shape) =>
        tensor([.. Enumerable.Range(0, (int)shape.Aggregate(1L, (a, b) => a * b)).Select(i => (float)i)], shape).to(device);

    private static Tensor Whole(torch.Device device, params long[] values) => tensor(values).to(device);

    private static double[] Of(long[] values) => [.. values.Select(value => (double)value)];

    private static double[] Read(Tensor x) => x.detach().to_type(ScalarType.Float64).cpu().contiguous().data<double>().ToArray();

    private static string Text(double[] values) => $"[{string.Join(", ", values.Take(12))}]";
}
