using System.Runtime.InteropServices;

namespace Ctkd.Engine;

/// <summary>
/// Recorded work of a CUDA device, replayed by one call: kernels, their order and their addresses. Inputs that change
/// between replays must be in tensors created before the recording and written in place.
/// </summary>
/// <remarks>
/// A C++ exception inside libtorch's own methods would end the process. The likely mistake in a recording, waiting for
/// the device, is detected by asking CUDA first and raised as an ordinary exception. Whether this libtorch can record
/// at all is tested once, in a child process.
/// </remarks>
public sealed unsafe class CudaGraph : SafeHandle
{
    // at::cuda::CUDAGraph has about 300 bytes in 2.10 and 2.11.
    private const nuint size = 4096, alignment = 64;

    // cudaStreamCaptureModeThreadLocal: does not restrict other threads, such as the finaliser's.
    private const int threadLocal = 1;

    // cudaStreamCaptureStatus.
    private const int capturing = 1;

    private readonly int device;

    private CudaGraph(int device) : base(0, ownsHandle: true) => this.device = device;

    /// <summary>Why this process cannot record, or null. The first call tests it in a child process.</summary>
    public static string? Problem => GraphCheck.Verdict;

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    /// <summary>Records the device work of <paramref name="body"/>, on its own stream.</summary>
    /// <param name="device">Index of a CUDA device.</param>
    /// <param name="rehearse">
    /// Runs first on that stream and is not recorded: all one-time work, such as selecting algorithms for each shape,
    /// must happen here.
    /// </param>
    /// <param name="body">Is recorded, not executed. Must not wait for the device, nor copy from or to host memory.</param>
    /// <exception cref="PlatformNotSupportedException"><see cref="Problem"/> is not null.</exception>
    /// <exception cref="ExternalException">CUDA rejected the recording.</exception>
    public static CudaGraph Record(int device, Action rehearse, Action body)
    {
        if (!ChildCheck.IsChild && Problem is { } refused)
            throw new PlatformNotSupportedException($"CUDA graphs cannot be recorded: {refused}");
        var cuda = CudaLibrary.Use;
        nint stream, guard;
        // The default stream cannot be recorded, and rehearsing on another stream would leave its memory there.
        CudaLibrary.Check(cuda.PoolStream(0, device, &stream), $"give a stream of CUDA device {device}");
        CudaLibrary.Check(cuda.EnterStream(stream, device, &guard), $"change to a stream of CUDA device {device}");
        try
        {
            CudaLibrary.CheckCuda(cuda.Synchronize(), "finish the work before a recording");
            rehearse();
            // No dropped object may be finalised during the recording.
            GC.Collect();
            GC.WaitForPendingFinalizers();
            CudaLibrary.CheckCuda(cuda.Synchronize(), "finish the rehearsal of a recording");
            var graph = new CudaGraph(device);
            try
            {
                graph.Capture(cuda, stream, body);
            }
            catch
            {
                graph.Dispose();
                throw;
            }

            return graph;
        }
        finally
        {
            _ = cuda.Synchronize();
            _ = cuda.LeaveStream(guard);
        }
    }

    /// <summary>Runs the recorded work again on the current stream; does not wait for it.</summary>
    public void Replay()
    {
        ObjectDisposedException.ThrowIf(IsClosed, this);
        CudaLibrary.Use.Replay((void*)handle);
        GC.KeepAlive(this);
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        var cuda = CudaLibrary.Use;
        int before;
        bool done = cuda.GetDevice(&before) == 0 && cuda.SetDevice(device) == 0 && cuda.Synchronize() == 0;
        cuda.DeleteGraph((void*)handle);
        NativeMemory.AlignedFree((void*)handle);
        return done && cuda.SetDevice(before) == 0;
    }

    private void Capture(CudaLibrary.Exports cuda, nint stream, Action body)
    {
        void* place = NativeMemory.AlignedAlloc(size, alignment);
        NativeMemory.Clear(place, size);
        cuda.NewGraph(place, 0);
        SetHandle((nint)place);
        cuda.BeginCapture(place, 0, 0, threadLocal);
        try
        {
            body();
        }
        catch
        {
            // The body's exception explains what is wrong.
            _ = End(cuda, stream);
            throw;
        }

        if (!End(cuda, stream))
            throw new ExternalException(
                "CUDA refused the recording: something in it waited for the device, or copied from or to the host's memory");
    }

    // Returns whether the recording succeeded.
    private bool End(CudaLibrary.Exports cuda, nint stream)
    {
        int status;
        CudaLibrary.CheckCuda(cuda.IsCapturing(stream, &status), "tell whether it records");
        bool whole = status == capturing;
        if (!whole)
        {
            // libtorch throws when it ends a failed recording, and leaves its allocator in recording mode: end this one
            // with CUDA, and then an empty one with libtorch.
            nint nothing;
            _ = cuda.EndRaw(stream, &nothing);
            _ = cuda.LastError();
            CudaLibrary.CheckCuda(cuda.BeginRaw(stream, threadLocal), "record after a refusal");
        }

        cuda.EndCapture((void*)handle);
        return whole;
    }
}
