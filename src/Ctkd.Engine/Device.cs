using TorchSharp;

namespace Ctkd.Engine;

/// <summary>The location of a tensor: the CPU or one CUDA device.</summary>
/// <param name="Kind">0 for the CPU, 1 for CUDA: libtorch's numbers.</param>
/// <param name="Index">Index of the CUDA device.</param>
public readonly record struct Device(int Kind, int Index)
{
    /// <summary>The CPU and its memory.</summary>
    public static Device Cpu => new(0, 0);

    /// <summary>Returns the CUDA device with an index.</summary>
    public static Device Cuda(int index) => new(1, index);

    /// <summary>Returns the device that holds a tensor.</summary>
    public static Device Of(torch.Tensor tensor) =>
        tensor.device_type == DeviceType.CPU ? Cpu : new((int)tensor.device_type, tensor.device_index);

    /// <summary>Converts to TorchSharp's type.</summary>
    public torch.Device ToTorch()
    {
        // Must precede any use of torch.
        Natives.Load();
        return Kind == 0 ? torch.CPU : new torch.Device((DeviceType)Kind, Index);
    }

    /// <inheritdoc/>
    public override string ToString() => Kind == 0 ? "cpu" : $"cuda:{Index}";
}
