using System.Runtime.InteropServices;
using TorchSharp;

namespace Ctkd.Engine;

/// <summary>Facts and switches of CUDA devices that TorchSharp lacks or spreads over several places.</summary>
public static unsafe class CudaFacts
{
    /// <summary>
    /// Bytes of a device's memory in use, by this process and all others: what <c>nvidia-smi</c> shows. libtorch keeps what
    /// tensors gave back, so it does not fall, and stays flat when nothing leaks.
    /// </summary>
    /// <exception cref="ExternalException">There is no such device.</exception>
    public static long UsedBytes(int device)
    {
        var cuda = CudaLibrary.Use;
        int before;
        nuint free, total;
        CudaLibrary.CheckCuda(cuda.GetDevice(&before), "name the current device");
        CudaLibrary.CheckCuda(cuda.SetDevice(device), $"use device {device}");
        int code = cuda.MemoryInfo(&free, &total);
        CudaLibrary.CheckCuda(cuda.SetDevice(before), $"go back to device {before}");
        CudaLibrary.CheckCuda(code, $"tell the memory of device {device}");
        return (long)(total - free);
    }

    /// <summary>Products and convolutions of float32 numbers on tensor cores, with 10 bits of the fraction instead of 23.</summary>
    public static void TensorFloat32(bool enabled)
    {
        torch.backends.cuda.matmul.allow_tf32 = enabled;
        torch.backends.cudnn.allow_tf32 = enabled;
    }

    /// <summary>cuDNN's algorithms that repeat to the bit, in place of the fastest ones found by trying.</summary>
    /// <exception cref="PlatformNotSupportedException">This libtorch does not export its switches.</exception>
    public static void Deterministic(bool enabled)
    {
        nint context = ((delegate* unmanaged<nint>)Export("_ZN2at13globalContextEv"))();
        var deterministic = (delegate* unmanaged<nint, byte, void>)Export("_ZN2at7Context21setDeterministicCuDNNEb");
        var benchmark = (delegate* unmanaged<nint, byte, void>)Export("_ZN2at7Context17setBenchmarkCuDNNEb");
        deterministic(context, enabled ? (byte)1 : (byte)0);
        benchmark(context, enabled ? (byte)0 : (byte)1);
    }

    private static nint Export(string name)
    {
        string file = OperatingSystem.IsMacOS() ? "libtorch_cpu.dylib" : "libtorch_cpu.so";
        if (OperatingSystem.IsWindows() || !NativeLibrary.TryLoad(file, out nint library))
            throw new PlatformNotSupportedException("cuDNN's switches are known for libtorch on Linux and macOS only");
        return NativeLibrary.TryGetExport(library, name, out nint address)
            ? address
            : throw new PlatformNotSupportedException($"{file} does not export {name}");
    }
}
