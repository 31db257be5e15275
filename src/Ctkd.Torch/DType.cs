namespace Ctkd.Torch;

/// <summary>Element types, by libtorch's own numbers.</summary>
public enum DType
{
    /// <summary>Unsigned byte.</summary>
    UInt8 = 0,

    /// <summary>Signed byte.</summary>
    Int8 = 1,

    /// <summary>16-bit integer.</summary>
    Int16 = 2,

    /// <summary>32-bit integer.</summary>
    Int32 = 3,

    /// <summary>64-bit integer.</summary>
    Int64 = 4,

    /// <summary>IEEE half precision.</summary>
    Float16 = 5,

    /// <summary>Single precision.</summary>
    Float32 = 6,

    /// <summary>Double precision.</summary>
    Float64 = 7,

    /// <summary>Truth value, one byte.</summary>
    Bool = 11,

    /// <summary>Brain float: the upper half of a single.</summary>
    BFloat16 = 15,
}

/// <summary>Facts about element types.</summary>
public static class DTypes
{
    /// <summary>Bytes of one element.</summary>
    public static int Size(this DType dtype) => dtype switch
    {
        DType.UInt8 or DType.Int8 or DType.Bool => 1,
        DType.Int16 or DType.Float16 or DType.BFloat16 => 2,
        DType.Int32 or DType.Float32 => 4,
        DType.Int64 or DType.Float64 => 8,
        _ => throw new ArgumentOutOfRangeException(nameof(dtype), dtype, "not an element type of this library"),
    };

    /// <summary>The element type that holds values of a .NET type.</summary>
    public static DType Of<T>() where T : unmanaged => default(T) switch
    {
        float => DType.Float32,
        double => DType.Float64,
        byte => DType.UInt8,
        sbyte => DType.Int8,
        short => DType.Int16,
        int => DType.Int32,
        long => DType.Int64,
        bool => DType.Bool,
        Half => DType.Float16,
        _ => throw new ArgumentException($"no element type holds {typeof(T)}", nameof(T)),
    };
}

/// <summary>Where a tensor lives: the CPU or one CUDA device.</summary>
/// <param name="Kind">0 for the CPU, 1 for CUDA: libtorch's numbers.</param>
/// <param name="Index">Which CUDA device.</param>
public readonly record struct Device(int Kind, int Index)
{
    /// <summary>The processor and its memory.</summary>
    public static Device Cpu => new(0, 0);

    /// <summary>The CUDA device of that number.</summary>
    public static Device Cuda(int index) => new(1, index);

    internal long Bits => (long)Kind | ((long)Index << 8);

    internal static Device FromBits(long bits) => new((int)(bits & 0xff), (int)(bits >> 8));

    /// <inheritdoc/>
    public override string ToString() => Kind == 0 ? "cpu" : $"cuda:{Index}";
}
