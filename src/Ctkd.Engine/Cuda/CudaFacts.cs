using System.Runtime.InteropServices;
using TorchSharp;

namespace Ctkd.Engine;

/// <summary>Facts and switches of CUDA devices that TorchSharp lacks or spreads over several places.</summary>
public static unsafe class CudaFacts
{
    /// <summary>
    /// Returns the bytes of a device's memory used by all processes, like <c>nvidia-smi</c>. libtorch keeps freed
    /// memory, so the number does not fall, and is constant if nothing leaks.
    /// </summary>
    /// <exception cref="ExternalException">The device does not exist.</exception>
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

    /// <summary>Enables float32 products and convolutions on tensor cores, with a 10-bit instead of a 23-bit mantissa.</summary>
    public static void TensorFloat32(bool enabled)
    {
        torch.backends.cuda.matmul.allow_tf32 = enabled;
        torch.backends.cudnn.allow_tf32 = enabled;
    }

    /// <summary>Enables cuDNN's bit-reproducible algorithms instead of the fastest ones found by benchmarking.</summary>
    /// <exception cref="PlatformNotSupportedException">This libtorch does not export the switches.</exception>
    public static void Deterministic(bool enabled)
    {
        if (!Context.TrySet(Context.DeterministicCuDnn, enabled) || !Context.TrySet(Context.BenchmarkCuDnn, !enabled))
            throw new PlatformNotSupportedException("this libtorch does not export cuDNN's switches");
    }
}
