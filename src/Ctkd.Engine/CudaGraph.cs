using System.Runtime.InteropServices;

namespace Ctkd.Engine;

/// <summary>
/// Recorded work of a CUDA device, which one call replays: the kernels, their order and the addresses that they read and
/// write. What is to change between replays lies in tensors that were made before and are written in place.
/// </summary>
/// <remarks>
/// An error inside libtorch's own methods would end the process, since it is a C++ exception. What a recording is likely to
/// run into, work that waits for the device, is found by asking CUDA first, and is an ordinary exception here. Whether this
/// libtorch records at all is found out once in a process of its own.
/// </remarks>
public sealed unsafe class CudaGraph : SafeHandle
{
    // at::cuda::CUDAGraph has about 300 bytes in 2.10 and 2.11.
    private const nuint size = 4096, alignment = 64;

    // cudaStreamCaptureModeThreadLocal: other threads, such as the finaliser's, may go on with what is theirs.
    private const int threadLocal = 1;

    // cudaStreamCaptureStatus.
    private const int capturing = 1;

    private readonly int device;

    private CudaGraph(int device) : base(0, ownsHandle: true) => this.device = device;

    /// <summary>Why this process can record nothing, or null. Found out at the first call, in a process of its own.</summary>
    public static string? Problem => GraphCheck.Verdict;

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    /// <summary>Records what <paramref name="body"/> asks of a device, on a stream of its own.</summary>
    /// <param name="device">The number of a CUDA device.</param>
    /// <param name="rehearse">
    /// Runs before it on that stream and is done, not recorded: all that is done once, such as the choice of algorithms for
    /// each shape, must happen here.
    /// </param>
    /// <param name="body">Nothing of it is done now. It must not wait for the device, nor copy from or to the host's memory.</param>
    /// <exception cref="PlatformNotSupportedException">There is a <see cref="Problem"/>.</exception>
    /// <exception cref="ExternalException">The device refused the recording.</exception>
    public static CudaGraph Record(int device, Action rehearse, Action body)
    {
        if (!ChildCheck.IsChild && Problem is { } refused)
            throw new PlatformNotSupportedException($"CUDA graphs cannot be recorded: {refused}");
        var cuda = CudaLibrary.Use;
        nint stream, guard;
        // Nothing can be recorded on the default stream, and what is rehearsed elsewhere leaves its memory there.
        CudaLibrary.Check(cuda.PoolStream(0, device, &stream), $"give a stream of CUDA device {device}");
        CudaLibrary.Check(cuda.EnterStream(stream, device, &guard), $"change to a stream of CUDA device {device}");
        try
        {
            CudaLibrary.CheckCuda(cuda.Synchronize(), "finish the work before a recording");
            rehearse();
            // Nothing that was dropped before may be freed in the middle of the recording.
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

    /// <summary>Does the recorded work again, on the current stream; does not wait for it.</summary>
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
            // What is wrong is what the body threw.
            _ = End(cuda, stream);
            throw;
        }

        if (!End(cuda, stream))
            throw new ExternalException(
                "CUDA refused the recording: something in it waited for the device, or copied from or to the host's memory");
    }

    // Whether a recording was made.
    private bool End(CudaLibrary.Exports cuda, nint stream)
    {
        int status;
        CudaLibrary.CheckCuda(cuda.IsCapturing(stream, &status), "tell whether it records");
        bool whole = status == capturing;
        if (!whole)
        {
            // libtorch's end of a spoilt recording throws, and leaves its allocator in the midst of it: CUDA ends this one,
            // and libtorch an empty one in its place.
            nint nothing;
            _ = cuda.EndRaw(stream, &nothing);
            _ = cuda.LastError();
            CudaLibrary.CheckCuda(cuda.BeginRaw(stream, threadLocal), "record after a refusal");
        }

        cuda.EndCapture((void*)handle);
        return whole;
    }
}
