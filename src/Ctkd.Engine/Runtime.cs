using TorchSharp;
using static TorchSharp.torch;

namespace Ctkd.Engine;

/// <summary>The process-wide side of the engine: threads, generators, devices.</summary>
public static class Runtime
{
    /// <summary>Threads of one operator.</summary>
    public static int Threads
    {
        get => get_num_threads();
        set => set_num_threads(value);
    }

    /// <summary>CUDA devices at hand; 0 without CUDA.</summary>
    public static int CudaDevices => cuda.is_available() ? cuda.device_count() : 0;

    /// <summary>Waits until the CUDA devices have done all their work; returns at once without CUDA.</summary>
    public static void Synchronize()
    {
        if (cuda.is_available())
            cuda.synchronize();
    }

    /// <summary>Seeds libtorch's own generator of a kind of device.</summary>
    public static void Seed(Device device, ulong seed)
    {
        if (device == Device.Cpu)
            Generator.Default.manual_seed((long)seed);
        else
            cuda.manual_seed_all((long)seed);
    }

    /// <summary>The state of the CPU's generator, as a byte tensor. TorchSharp reaches no state of CUDA's.</summary>
    public static Tensor GeneratorState() => random.get_rng_state();

    /// <summary>Sets the state that <see cref="GeneratorState"/> gave.</summary>
    public static void SetGeneratorState(Tensor state) => random.set_rng_state(state);
}
