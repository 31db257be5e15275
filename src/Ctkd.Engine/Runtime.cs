using TorchSharp;
using static TorchSharp.torch;

namespace Ctkd.Engine;

/// <summary>The engine's process-wide state: threads, generators, devices.</summary>
public static class Runtime
{
    /// <summary>Number of threads per operator.</summary>
    public static int Threads
    {
        get => get_num_threads();
        set => set_num_threads(value);
    }

    /// <summary>Number of CUDA devices; 0 without CUDA.</summary>
    public static int CudaDevices => cuda.is_available() ? cuda.device_count() : 0;

    /// <summary>Waits until the CUDA devices have finished all work; returns at once without CUDA.</summary>
    public static void Synchronize()
    {
        if (cuda.is_available())
            cuda.synchronize();
    }

    /// <summary>Seeds libtorch's generator of a kind of device.</summary>
    public static void Seed(Device device, ulong seed)
    {
        if (device == Device.Cpu)
            Generator.Default.manual_seed((long)seed);
        else
            cuda.manual_seed_all((long)seed);
    }

    /// <summary>Returns the state of the CPU's generator as bytes. TorchSharp cannot access CUDA's.</summary>
    public static Tensor GeneratorState() => random.get_rng_state();

    /// <summary>Restores a state from <see cref="GeneratorState"/>.</summary>
    public static void SetGeneratorState(Tensor state) => random.set_rng_state(state);
}
