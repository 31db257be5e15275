using System.Runtime.InteropServices;

namespace Ctkd.Torch;

/// <summary>
/// One owned reference to a libtorch tensor. It is freed when the <see cref="Scope"/> that it was made in closes, when it
/// is disposed, or, as a net, when it is finalised.
/// </summary>
public sealed class Tensor : SafeHandle
{
    private static long live;

    /// <summary>The scope that frees this tensor; null outside all scopes.</summary>
    internal Scope? Owner;

    private Tensor(IntPtr handle) : base(IntPtr.Zero, ownsHandle: true)
    {
        SetHandle(handle);
        Interlocked.Increment(ref live);
        Scope.Adopt(this);
    }

    internal static Tensor Wrap(IntPtr handle) =>
        handle == IntPtr.Zero ? throw new TorchException("the operator returned no tensor") : new Tensor(handle);

    /// <summary>Tensors that this process holds at present: flat over training steps when nothing leaks.</summary>
    public static long Live => Interlocked.Read(ref live);

    /// <inheritdoc/>
    public override bool IsInvalid => handle == IntPtr.Zero;

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        Native.ctkd_tensor_free(handle);
        Interlocked.Decrement(ref live);
        return true;
    }

    /// <summary>The raw handle; throws when the tensor has been freed, so that a dead one never reaches libtorch.</summary>
    internal IntPtr Pointer
    {
        get
        {
            ObjectDisposedException.ThrowIf(IsClosed, this);
            return handle;
        }
    }

    /// <summary>A copy of <paramref name="values"/> on the CPU, in row-major order.</summary>
    public static unsafe Tensor Create<T>(ReadOnlySpan<T> values, ReadOnlySpan<long> shape) where T : unmanaged =>
        Create(MemoryMarshal.AsBytes(values), shape, DTypes.Of<T>());

    /// <summary>A copy of raw little-endian <paramref name="bytes"/> on the CPU, in row-major order.</summary>
    public static unsafe Tensor Create(ReadOnlySpan<byte> bytes, ReadOnlySpan<long> shape, DType dtype)
    {
        fixed (byte* data = bytes)
        fixed (long* sizes = shape)
            return Wrap(Native.Check(Native.ctkd_tensor_create(data, bytes.Length, sizes, shape.Length, (int)dtype)));
    }

    /// <summary>Writes the elements, in row-major order, into <paramref name="bytes"/>. Waits for the device.</summary>
    public unsafe void Read(Span<byte> bytes)
    {
        fixed (byte* data = bytes)
            Native.Check(Native.ctkd_tensor_read(Pointer, data, bytes.Length));
        GC.KeepAlive(this);
    }

    /// <summary>The elements in row-major order. Waits for the device.</summary>
    public T[] ToArray<T>() where T : unmanaged
    {
        if (DTypes.Of<T>() != DType)
            throw new ArgumentException($"the tensor holds {DType}, not {typeof(T).Name}", nameof(T));
        var values = new T[ElementCount];
        Read(MemoryMarshal.AsBytes(values.AsSpan()));
        return values;
    }

    /// <summary>Number of dimensions.</summary>
    public int Rank => Kept(Native.ctkd_tensor_rank(Pointer));

    /// <summary>Length of one dimension; a negative one counts from the end.</summary>
    public long Size(int dim)
    {
        int rank = Rank;
        int at = dim < 0 ? dim + rank : dim;
        if (at < 0 || at >= rank)
            throw new ArgumentOutOfRangeException(nameof(dim), dim, $"the tensor has {rank} dimensions");
        return Kept(Native.ctkd_tensor_size(Pointer, at));
    }

    /// <summary>The lengths of all dimensions.</summary>
    public long[] Shape
    {
        get
        {
            var shape = new long[Rank];
            for (int i = 0; i < shape.Length; i++)
                shape[i] = Native.ctkd_tensor_size(Pointer, i);
            return Kept(shape);
        }
    }

    /// <summary>Number of elements.</summary>
    public long ElementCount => Kept(Native.ctkd_tensor_numel(Pointer));

    /// <summary>Element type.</summary>
    public DType DType => Kept((DType)Native.ctkd_tensor_dtype(Pointer));

    /// <summary>Where the tensor lives.</summary>
    public Device Device => Kept(Device.FromBits(Native.ctkd_tensor_device(Pointer)));

    /// <summary>Whether an image tensor is stored with its channels innermost.</summary>
    public bool IsChannelsLast => Kept(Native.ctkd_tensor_channels_last(Pointer)) != 0;

    /// <summary>Whether gradients with respect to this tensor are wanted.</summary>
    public bool RequiresGrad
    {
        get => Kept(Native.ctkd_tensor_requires_grad(Pointer)) != 0;
        set
        {
            Native.Check(Native.ctkd_tensor_set_requires_grad(Pointer, value ? 1 : 0));
            GC.KeepAlive(this);
        }
    }

    // The handle must outlive the native call that produced the value.
    private TValue Kept<TValue>(TValue value)
    {
        GC.KeepAlive(this);
        return value;
    }

    /// <summary>Shape, type and place; never the values, which would wait for the device.</summary>
    public override string ToString() =>
        IsClosed ? "tensor (freed)" : $"tensor {DType} [{string.Join(", ", Shape)}] on {Device}";

    /// <summary>Element-wise sum, broadcasting.</summary>
    public static Tensor operator +(Tensor a, Tensor b) => Ops.Add(a, b);

    /// <summary>Element-wise sum with a number.</summary>
    public static Tensor operator +(Tensor a, double b) => Ops.AddScalar(a, b);

    /// <summary>Element-wise difference, broadcasting.</summary>
    public static Tensor operator -(Tensor a, Tensor b) => Ops.Sub(a, b);

    /// <summary>Element-wise difference with a number.</summary>
    public static Tensor operator -(Tensor a, double b) => Ops.AddScalar(a, -b);

    /// <summary>Element-wise product, broadcasting.</summary>
    public static Tensor operator *(Tensor a, Tensor b) => Ops.Mul(a, b);

    /// <summary>Element-wise product with a number.</summary>
    public static Tensor operator *(Tensor a, double b) => Ops.MulScalar(a, b);

    /// <summary>Element-wise quotient, broadcasting.</summary>
    public static Tensor operator /(Tensor a, Tensor b) => Ops.Div(a, b);

    /// <summary>Element-wise quotient by a number.</summary>
    public static Tensor operator /(Tensor a, double b) => Ops.DivScalar(a, b);

    /// <summary>Element-wise negation.</summary>
    public static Tensor operator -(Tensor a) => Ops.Neg(a);
}
