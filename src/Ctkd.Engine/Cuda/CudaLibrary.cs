using System.Runtime.InteropServices;

namespace Ctkd.Engine;

/// <summary>
/// Functions of libtorch's CUDA library that TorchSharp does not expose: its C ABI for streams, the class
/// <c>at::cuda::CUDAGraph</c> by mangled name, and the CUDA runtime it is linked with. Bound at first use, all or none.
/// </summary>
internal static unsafe class CudaLibrary
{
    // The loader knows this name once libtorch is loaded. Mangled names follow the Itanium C++ ABI.
    private const string file = "libtorch_cuda.so";

    private static readonly Lazy<(Exports? Bound, string? Problem)> bound = new(Bind);

    /// <summary>Why the library cannot be used, or null.</summary>
    internal static string? Problem => bound.Value.Problem;

    /// <exception cref="PlatformNotSupportedException"><see cref="Problem"/> is not null.</exception>
    internal static Exports Use => bound.Value.Bound ?? throw new PlatformNotSupportedException(Problem);

    /// <summary>Throws on an error of libtorch's C ABI, whose message went to the error stream.</summary>
    internal static void Check(int code, string what)
    {
        if (code != 0)
            throw new ExternalException($"libtorch could not {what}: see the error stream", code);
    }

    /// <summary>Throws on an error of the CUDA runtime, and clears it for this thread.</summary>
    internal static void CheckCuda(int code, string what)
    {
        if (code == 0)
            return;
        string why = Marshal.PtrToStringUTF8(Use.ErrorString(code)) ?? "no text";
        Use.LastError();
        throw new ExternalException($"CUDA could not {what}: {why} (error {code})", code);
    }

    private static (Exports?, string?) Bind()
    {
        if (!OperatingSystem.IsLinux() || RuntimeInformation.ProcessArchitecture != Architecture.X64)
            return (null, "CUDA graphs are recorded on Linux on x86-64 only");
        if (!NativeLibrary.TryLoad(file, out nint library))
            return (null, $"this libtorch has no CUDA: {file} is not loaded");
        var missing = new List<string>();
        var exports = new Exports(name =>
        {
            // Searches the library and those it is linked with, such as the CUDA runtime.
            if (!NativeLibrary.TryGetExport(library, name, out nint address))
                missing.Add(name);
            return address;
        });
        return missing.Count == 0 ? (exports, null) : (null, $"{file} does not export {string.Join(", ", missing)}");
    }

    /// <summary>The functions as in their headers. Callers are responsible for sizes, structs in registers, and results.</summary>
    internal sealed class Exports(Func<string, nint> find)
    {
        // torch/csrc/stable/c/shim.h and aoti_torch/c/shim.h: stable from 2.10 on; return 0 or an error, and never
        // throw.
        internal readonly delegate* unmanaged<byte, int, nint*, int> PoolStream =
            (delegate* unmanaged<byte, int, nint*, int>)find("torch_get_cuda_stream_from_pool");
        internal readonly delegate* unmanaged<nint, int, nint*, int> EnterStream =
            (delegate* unmanaged<nint, int, nint*, int>)find("aoti_torch_create_cuda_stream_guard");
        internal readonly delegate* unmanaged<nint, int> LeaveStream =
            (delegate* unmanaged<nint, int>)find("aoti_torch_delete_cuda_stream_guard");

        // ATen/cuda/CUDAGraph.h: unchanged from 2.8 to at least 2.14. MempoolId_t is a pair of 64-bit numbers, in
        // registers.
        internal readonly delegate* unmanaged<void*, byte, void> NewGraph =
            (delegate* unmanaged<void*, byte, void>)find("_ZN2at4cuda9CUDAGraphC1Eb");
        internal readonly delegate* unmanaged<void*, ulong, ulong, int, void> BeginCapture =
            (delegate* unmanaged<void*, ulong, ulong, int, void>)find("_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode");
        internal readonly delegate* unmanaged<void*, void> EndCapture =
            (delegate* unmanaged<void*, void>)find("_ZN2at4cuda9CUDAGraph11capture_endEv");
        internal readonly delegate* unmanaged<void*, void> Replay =
            (delegate* unmanaged<void*, void>)find("_ZN2at4cuda9CUDAGraph6replayEv");
        internal readonly delegate* unmanaged<void*, void> DeleteGraph =
            (delegate* unmanaged<void*, void>)find("_ZN2at4cuda9CUDAGraphD1Ev");

        // cuda_runtime_api.h.
        internal readonly delegate* unmanaged<int*, int> GetDevice = (delegate* unmanaged<int*, int>)find("cudaGetDevice");
        internal readonly delegate* unmanaged<int, int> SetDevice = (delegate* unmanaged<int, int>)find("cudaSetDevice");
        internal readonly delegate* unmanaged<int> Synchronize = (delegate* unmanaged<int>)find("cudaDeviceSynchronize");
        internal readonly delegate* unmanaged<nuint*, nuint*, int> MemoryInfo = (delegate* unmanaged<nuint*, nuint*, int>)find("cudaMemGetInfo");
        internal readonly delegate* unmanaged<int> LastError = (delegate* unmanaged<int>)find("cudaGetLastError");
        internal readonly delegate* unmanaged<int, nint> ErrorString = (delegate* unmanaged<int, nint>)find("cudaGetErrorString");
        internal readonly delegate* unmanaged<nint, int*, int> IsCapturing = (delegate* unmanaged<nint, int*, int>)find("cudaStreamIsCapturing");
        internal readonly delegate* unmanaged<nint, int, int> BeginRaw = (delegate* unmanaged<nint, int, int>)find("cudaStreamBeginCapture");
        internal readonly delegate* unmanaged<nint, nint*, int> EndRaw = (delegate* unmanaged<nint, nint*, int>)find("cudaStreamEndCapture");
    }
}
