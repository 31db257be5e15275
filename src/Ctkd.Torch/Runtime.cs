using System.Runtime.InteropServices;

namespace Ctkd.Torch;

/// <summary>The process-wide side of the engine: version, threads, generators, devices.</summary>
public static class Runtime
{
    /// <summary>libtorch's version.</summary>
    public static string Version => Marshal.PtrToStringUTF8(Native.ctkd_version())!;

    /// <summary>What libtorch was built with, and its threads, in its own words.</summary>
    public static string Configuration => Marshal.PtrToStringUTF8(Native.ctkd_config())!;

    /// <summary>Whether oneDNN's convolutions are there.</summary>
    public static bool HasOneDnn => Native.ctkd_has_mkldnn() != 0;

    /// <summary>Whether oneDNN runs a convolution and the ReLU or sum behind it in one pass.</summary>
    public static bool FusesConvolutions => Native.ctkd_fuses() != 0;

    /// <summary>Threads of one operator.</summary>
    public static int Threads
    {
        get => Native.ctkd_threads();
        set => Native.Check(Native.ctkd_set_threads(value));
    }

    /// <summary>CUDA devices at hand; 0 without CUDA.</summary>
    public static int CudaDevices => Native.ctkd_cuda_devices();

    /// <summary>Waits until a CUDA device has done all its work; nothing to do on the CPU.</summary>
    public static void Synchronize() => Native.Check(Native.ctkd_cuda_synchronize());

    /// <summary>Bytes that tensors hold on a CUDA device.</summary>
    public static long CudaMemory(Device device)
    {
        long bytes = Native.ctkd_cuda_memory(device.Bits);
        return bytes >= 0 ? bytes : throw Native.Failure();
    }

    /// <summary>Float32 products and convolutions on tensor cores, with 10 bits of the fraction (CUDA).</summary>
    public static void SetTf32(bool enabled) => Native.Check(Native.ctkd_tf32(enabled ? 1 : 0));

    /// <summary>Seeds libtorch's own generator of a device.</summary>
    public static void Seed(Device device, ulong seed) => Native.Check(Native.ctkd_seed(device.Bits, seed));

    /// <summary>The state of libtorch's own generator, as a byte tensor.</summary>
    public static Tensor GeneratorState(Device device) => Tensor.Wrap(Native.Check(Native.ctkd_generator_state(device.Bits)));

    /// <summary>Sets the state that <see cref="GeneratorState"/> gave.</summary>
    public static void SetGeneratorState(Device device, Tensor state)
    {
        Native.Check(Native.ctkd_set_generator_state(device.Bits, state.Pointer));
        GC.KeepAlive(state);
    }

    /// <summary>Algorithms that repeat to the bit (CUDA; the CPU's always do with the same number of threads).</summary>
    public static void SetDeterministic(bool enabled) => Native.Check(Native.ctkd_deterministic(enabled ? 1 : 0));
}
