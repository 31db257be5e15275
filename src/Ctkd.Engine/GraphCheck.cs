using TorchSharp;
using static TorchSharp.torch;

namespace Ctkd.Engine;

/// <summary>Whether this libtorch records CUDA graphs: a small one is recorded and replayed.</summary>
internal static class GraphCheck
{
    private static readonly Lazy<string?> verdict = new(() => CudaLibrary.Problem ?? ChildCheck.Ask("graph", Natives.Files).Fault);

    /// <summary>
    /// Why nothing can be recorded, or nothing. Found out once in a process of its own, since what libtorch refuses there
    /// can end the process, and remembered.
    /// </summary>
    public static string? Verdict => verdict.Value;

    /// <summary>The check itself.</summary>
    public static string? Run()
    {
        Natives.Load();
        if (CudaLibrary.Problem is { } problem)
            return problem;
        using var scope = NewDisposeScope();
        var device = new torch.Device(DeviceType.CUDA, 0);
        var step = full([3], 2.0, device: device);
        var sum = zeros(3, device: device);
        void Add()
        {
            using var inner = NewDisposeScope();
            sum.add_(step * 3.0);
        }

        using var graph = CudaGraph.Record(0, Add, Add);
        sum.zero_();
        step.fill_(1.0);
        graph.Replay();
        graph.Replay();
        cuda.synchronize();
        double found = sum.cpu()[0].item<float>();
        return found == 6.0 ? null : $"two replays of a recorded sum gave {found} and not 6";
    }
}
