using System.Buffers;
using System.Runtime.InteropServices;
using System.Text;

namespace Ctkd.Torch;

/// <summary>One argument of an operator: a tensor, number, list, type or device, or nothing.</summary>
public readonly struct Value
{
    internal enum Kind
    {
        Default, None, Tensor, Int, Double, Bool, Ints, Doubles, Bools, Tensors, OptionalTensors, String, Device, Pair,
    }

    internal readonly Kind Tag;
    internal readonly long Bits;
    internal readonly object? Reference;

    private Value(Kind tag, long bits, object? reference = null) => (Tag, Bits, Reference) = (tag, bits, reference);

    /// <summary>The argument's default from the operator's schema.</summary>
    public static Value Default => default;

    /// <summary>No value, where the schema allows it.</summary>
    public static Value None => new(Kind.None, 0);

    /// <summary>A list of two integers, such as a stride, without an array.</summary>
    public static Value Pair(int first, int second) => new(Kind.Pair, ((long)first << 32) | (uint)second);

    /// <summary>A list of one integer, such as a dimension, without an array.</summary>
    public static Value Dim(int dim) => new(Kind.Ints, dim);

    /// <summary>A list of optional tensors.</summary>
    public static Value Optional(Tensor?[] tensors) => new(Kind.OptionalTensors, 0, tensors);

    /// <summary>A tensor; null is no value.</summary>
    public static implicit operator Value(Tensor? tensor) => tensor is null ? None : new(Kind.Tensor, 0, tensor);

    /// <summary>An integer.</summary>
    public static implicit operator Value(long value) => new(Kind.Int, value);

    /// <summary>A floating-point number.</summary>
    public static implicit operator Value(double value) => new(Kind.Double, BitConverter.DoubleToInt64Bits(value));

    /// <summary>A truth value.</summary>
    public static implicit operator Value(bool value) => new(Kind.Bool, value ? 1 : 0);

    /// <summary>An element type.</summary>
    public static implicit operator Value(DType dtype) => new(Kind.Int, (int)dtype);

    /// <summary>A device.</summary>
    public static implicit operator Value(Device device) => new(Kind.Device, device.Bits);

    /// <summary>A list of integers.</summary>
    public static implicit operator Value(long[] values) => new(Kind.Ints, 0, values);

    /// <summary>A list of numbers.</summary>
    public static implicit operator Value(double[] values) => new(Kind.Doubles, 0, values);

    /// <summary>A list of truth values.</summary>
    public static implicit operator Value(bool[] values) => new(Kind.Bools, 0, values);

    /// <summary>A list of tensors.</summary>
    public static implicit operator Value(Tensor[] tensors) => new(Kind.Tensors, 0, tensors);

    /// <summary>A text.</summary>
    public static implicit operator Value(string text) => new(Kind.String, 0, text);
}

/// <summary>An operator of libtorch's registry, looked up once and called through one function of the shim.</summary>
public sealed unsafe class Operator
{
    private static readonly List<Operator> registered = [];
    private IntPtr handle;

    /// <summary>Names an operator and the leading arguments that the caller relies on; looked up at the first call.</summary>
    /// <param name="name">Such as <c>aten::add.Tensor</c>.</param>
    /// <param name="arguments">The schema's first argument names, separated by spaces.</param>
    public Operator(string name, string arguments)
    {
        (Name, Arguments) = (name, arguments);
        lock (registered)
            registered.Add(this);
    }

    /// <summary>The registry's name with its overload.</summary>
    public string Name { get; }

    /// <summary>The argument names that callers rely on.</summary>
    public string Arguments { get; }

    /// <summary>Looks every operator of the seam up; answers what this libtorch lacks or declares otherwise.</summary>
    public static IReadOnlyList<string> Check()
    {
        System.Runtime.CompilerServices.RuntimeHelpers.RunClassConstructor(typeof(Ops).TypeHandle);
        lock (registered)
            return [.. registered.Select(op => op.Find(out _)).OfType<string>()];
    }

    /// <summary>Number of operators that the seam uses.</summary>
    public static int Count
    {
        get
        {
            System.Runtime.CompilerServices.RuntimeHelpers.RunClassConstructor(typeof(Ops).TypeHandle);
            lock (registered)
                return registered.Count;
        }
    }

    // Null when found, else the problem in words.
    private string? Find(out IntPtr found)
    {
        int dot = Name.IndexOf('.');
        var (name, overload) = dot < 0 ? (Name, "") : (Name[..dot], Name[(dot + 1)..]);
        found = Native.ctkd_op_find(name, overload);
        if (found == IntPtr.Zero)
            return $"this libtorch has no operator {Name}";
        string actual = Marshal.PtrToStringUTF8(Native.ctkd_op_arguments(found))!;
        return $"{actual} ".StartsWith(Arguments + " ", StringComparison.Ordinal)
            ? null
            : $"operator {Name} takes ({actual}), expected ({Arguments})";
    }

    private IntPtr Handle => handle != IntPtr.Zero ? handle : Resolve();

    private IntPtr Resolve() => Find(out var found) is { } problem ? throw new TorchException(problem) : handle = found;

    /// <summary>Calls an operator with one result.</summary>
    public Tensor Call(params ReadOnlySpan<Value> arguments)
    {
        IntPtr result;
        return Invoke(arguments, &result, 1) == 1
            ? Tensor.Wrap(result)
            : throw new TorchException($"{Name} did not return one tensor");
    }

    /// <summary>Calls an operator with two results.</summary>
    public (Tensor First, Tensor Second) CallPair(params ReadOnlySpan<Value> arguments)
    {
        IntPtr* results = stackalloc IntPtr[2];
        return Invoke(arguments, results, 2) == 2
            ? (Tensor.Wrap(results[0]), Tensor.Wrap(results[1]))
            : throw new TorchException($"{Name} did not return two tensors");
    }

    /// <summary>Calls an operator with any number of results.</summary>
    public Tensor[] CallMany(params ReadOnlySpan<Value> arguments)
    {
        const int room = 64;
        IntPtr* few = stackalloc IntPtr[room];
        int count = Invoke(arguments, few, room);
        var results = new Tensor[count];
        if (count <= room)
        {
            for (int i = 0; i < count; i++)
                results[i] = Tensor.Wrap(few[i]);
            return results;
        }

        var many = new IntPtr[count];
        fixed (IntPtr* all = many)
            Native.Check(Native.ctkd_op_take(all, count));
        for (int i = 0; i < count; i++)
            results[i] = Tensor.Wrap(many[i]);
        return results;
    }

    /// <summary>Calls an operator for its effect; its results are dropped.</summary>
    public void Do(params ReadOnlySpan<Value> arguments) => Invoke(arguments, null, 0);

    private int Invoke(ReadOnlySpan<Value> arguments, IntPtr* results, int capacity)
    {
        // One buffer for all lists of the call: integers, numbers and handles are 8 bytes each.
        int words = 0;
        foreach (ref readonly var argument in arguments)
            words += Words(argument);
        const int onStack = 512;
        long[]? rented = words > onStack ? ArrayPool<long>.Shared.Rent(words) : null;
        try
        {
            fixed (long* heap = rented)
            {
                long* stack = stackalloc long[rented is null ? words : 0];
                long* next = rented is null ? stack : heap;
                NativeValue* values = stackalloc NativeValue[arguments.Length];
                for (int i = 0; i < arguments.Length; i++)
                    values[i] = Lower(arguments[i], ref next);
                int produced = Native.ctkd_op_call(Handle, values, arguments.Length, results, capacity);
                KeepAlive(arguments);
                return produced >= 0 ? produced : throw new TorchException($"{Name}: {Native.Failure().Message}");
            }
        }
        finally
        {
            if (rented is not null)
                ArrayPool<long>.Shared.Return(rented);
        }
    }

    private static int Words(in Value argument) => argument.Tag switch
    {
        Value.Kind.Pair => 2,
        Value.Kind.String => (Encoding.UTF8.GetByteCount((string)argument.Reference!) + 7) / 8,
        Value.Kind.Ints when argument.Reference is null => 1,
        Value.Kind.Ints or Value.Kind.Doubles or Value.Kind.Bools or Value.Kind.Tensors or Value.Kind.OptionalTensors =>
            ((Array)argument.Reference!).Length,
        _ => 0,
    };

    private static NativeValue Lower(in Value argument, ref long* next)
    {
        var value = new NativeValue { Tag = (int)argument.Tag, Integer = argument.Bits };
        long* start = next;
        switch (argument.Tag)
        {
            case Value.Kind.Tensor:
                value.Data = (void*)((Tensor)argument.Reference!).Pointer;
                return value;
            case Value.Kind.Pair:
                value.Tag = (int)Value.Kind.Ints;
                *next++ = argument.Bits >> 32;
                *next++ = (int)argument.Bits;
                break;
            case Value.Kind.Ints when argument.Reference is null:
                *next++ = argument.Bits;
                break;
            case Value.Kind.Ints:
                foreach (long item in (long[])argument.Reference!)
                    *next++ = item;
                break;
            case Value.Kind.Doubles:
                foreach (double item in (double[])argument.Reference!)
                    *next++ = BitConverter.DoubleToInt64Bits(item);
                break;
            case Value.Kind.Bools:
                foreach (bool item in (bool[])argument.Reference!)
                    *next++ = item ? 1 : 0;
                break;
            case Value.Kind.Tensors or Value.Kind.OptionalTensors:
                foreach (var item in (Tensor?[])argument.Reference!)
                    *next++ = item?.Pointer ?? 0;
                break;
            case Value.Kind.String:
                string text = (string)argument.Reference!;
                int bytes = Encoding.UTF8.GetBytes(text, new Span<byte>(next, Words(argument) * 8));
                next += Words(argument);
                value.Data = start;
                value.Count = bytes;
                return value;
            default:
                return value;
        }

        value.Data = start;
        value.Count = (int)(next - start);
        return value;
    }

    // The JIT may consider an argument dead once its handle is read.
    private static void KeepAlive(ReadOnlySpan<Value> arguments)
    {
        foreach (ref readonly var argument in arguments)
            GC.KeepAlive(argument.Reference);
    }
}
