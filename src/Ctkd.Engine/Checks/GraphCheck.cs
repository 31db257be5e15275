using TorchSharp;
using static TorchSharp.torch;

namespace Ctkd.Engine;

/// <summary>Checks whether this libtorch records CUDA graphs, by recording and replaying a small one.</summary>
internal static class GraphCheck
{
    private static readonly Lazy<string?> verdict = new(() => CudaLibrary.Problem ?? ChildCheck.Run("graph", Natives.Files).Fault);

    /// <summary>
    /// Why nothing can be recorded, or null. Tested once in a child process, since a failure in libtorch can end the
    /// process, and remembered.
    /// </summary>
    public static string? Verdict => verdict.Value;

    /// <summary>Runs the check.</summary>
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
