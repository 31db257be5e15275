using TorchSharp;

namespace Ctkd.Engine;

/// <summary>Where a tensor lives: the CPU or one CUDA device.</summary>
/// <param name="Kind">0 for the CPU, 1 for CUDA: libtorch's numbers.</param>
/// <param name="Index">Which CUDA device.</param>
public readonly record struct Device(int Kind, int Index)
{
    /// <summary>The processor and its memory.</summary>
    public static Device Cpu => new(0, 0);

    /// <summary>The CUDA device of that number.</summary>
    public static Device Cuda(int index) => new(1, index);

    /// <summary>Where a tensor lives.</summary>
    public static Device Of(torch.Tensor tensor) =>
        tensor.device_type == DeviceType.CPU ? Cpu : new((int)tensor.device_type, tensor.device_index);

    /// <summary>As TorchSharp writes it.</summary>
    public torch.Device ToTorch() =>
        Natives.Load() is not null && Kind == 0 ? torch.CPU : new torch.Device((DeviceType)Kind, Index);

    /// <inheritdoc/>
    public override string ToString() => Kind == 0 ? "cpu" : $"cuda:{Index}";
}
