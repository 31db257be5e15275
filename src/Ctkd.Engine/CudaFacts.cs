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
        if (!Context.TrySet(Context.DeterministicCuDnn, enabled) || !Context.TrySet(Context.BenchmarkCuDnn, !enabled))
            throw new PlatformNotSupportedException("this libtorch does not export cuDNN's switches");
    }
}
