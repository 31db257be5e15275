using System.Runtime.InteropServices;
using System.Text;
using Tensor = TorchSharp.torch.Tensor;

namespace Ctkd.Engine;

/// <summary>
/// Calls libtorch's operators by name, through its stable C ABI. Arguments are 64-bit words made by <c>Of</c>, in the
/// order of the operator's schema and complete: defaults are not filled in. A word may be used in one call only.
/// Arguments of the schema's type <c>Scalar</c> are not supported.
/// </summary>
public static unsafe class Dispatcher
{
    /// <summary>The word of a missing optional argument.</summary>
    public const ulong None = 0;

    // Fixed by libtorch's C ABI: c10::MemoryFormat::ChannelsLast.
    private const long channelsLast = 2;

    private static readonly ulong abi = aoti_torch_abi_version();

    /// <summary>Creates a new reference to a tensor.</summary>
    /// <exception cref="InvalidOperationException">The tensor was freed.</exception>
    public static ulong Of(Tensor tensor)
    {
        Check(aoti_torch_new_tensor_handle(tensor.Handle, out var handle), "a tensor");
        GC.KeepAlive(tensor);
        return (ulong)handle;
    }

    /// <summary>Creates another reference to the tensor of a kept result.</summary>
    internal static ulong Again(ulong result)
    {
        Check(aoti_torch_new_tensor_handle((IntPtr)result, out var handle), "a tensor");
        return (ulong)handle;
    }

    /// <summary>An integer.</summary>
    public static ulong Of(long value) => (ulong)value;

    /// <summary>A floating-point number.</summary>
    public static ulong Of(double value) => BitConverter.DoubleToUInt64Bits(value);

    /// <summary>A boolean.</summary>
    public static ulong Of(bool value) => value ? 1ul : 0;

    /// <summary>A list of integers.</summary>
    public static ulong Of(ReadOnlySpan<long> values)
    {
        ulong list = List(values.Length);
        foreach (long value in values)
            Add(list, Of(value));
        return list;
    }

    /// <summary>A list of floating-point numbers.</summary>
    public static ulong Of(ReadOnlySpan<double> values)
    {
        ulong list = List(values.Length);
        foreach (double value in values)
            Add(list, Of(value));
        return list;
    }

    /// <summary>A list of tensors.</summary>
    public static ulong Of(ReadOnlySpan<Tensor> tensors)
    {
        ulong list = List(tensors.Length);
        foreach (var tensor in tensors)
            Add(list, Of(tensor));
        return list;
    }

    /// <summary>UTF-8 text.</summary>
    public static ulong Of(ReadOnlySpan<byte> text)
    {
        fixed (byte* data = text)
        {
            Check(torch_new_string_handle(data, (nuint)text.Length, out var handle), "a text");
            return (ulong)handle;
        }
    }

    /// <summary>A present optional argument; libtorch frees its memory.</summary>
    public static ulong Some(ulong word)
    {
        var place = (ulong*)NativeMemory.Alloc(sizeof(ulong));
        *place = word;
        return (ulong)place;
    }

    /// <summary>An optional tensor.</summary>
    public static ulong Maybe(Tensor? tensor) => tensor is null ? None : Some(Of(tensor));

    /// <summary>Calls an operator; its results replace the arguments, starting at the first word.</summary>
    /// <param name="name">Its name with namespace, such as <c>aten::lstm</c>: a u8 literal, which a 0 byte terminates.</param>
    /// <param name="overload">The overload's name, or empty.</param>
    /// <param name="stack">The arguments; at least as many words as there are results.</param>
    /// <exception cref="ExternalException">
    /// This libtorch lacks the operator, or it rejected its arguments: libtorch wrote the reason to the error stream.
    /// </exception>
    public static void Invoke(ReadOnlySpan<byte> name, ReadOnlySpan<byte> overload, Span<ulong> stack)
    {
        byte empty = 0;
        fixed (byte* operation = name, variant = overload)
        fixed (ulong* words = stack)
            if (torch_call_dispatcher(operation, variant == null ? &empty : variant, words, abi) != 0)
            {
                string full = Encoding.UTF8.GetString(name) + (overload.IsEmpty ? "" : "." + Encoding.UTF8.GetString(overload));
                throw new ExternalException($"libtorch refused {full}: see the error stream");
            }
    }

    /// <summary>Calls an operator that returns one tensor.</summary>
    /// <inheritdoc cref="Invoke"/>
    public static Tensor Call(ReadOnlySpan<byte> name, ReadOnlySpan<byte> overload, Span<ulong> stack)
    {
        Invoke(name, overload, stack);
        return Take(stack[0]);
    }

    /// <summary>Calls an operator that returns a list of tensors.</summary>
    /// <inheritdoc cref="Invoke"/>
    public static Tensor[] CallMany(ReadOnlySpan<byte> name, ReadOnlySpan<byte> overload, Span<ulong> stack)
    {
        Invoke(name, overload, stack);
        var list = (IntPtr)stack[0];
        Check(torch_list_size(list, out nuint count), "a result");
        var tensors = new Tensor[(int)count];
        for (nuint i = 0; i < count; i++)
        {
            Check(torch_list_get_item(list, i, out ulong item), "a result");
            tensors[i] = Take(item);
        }

        Check(torch_delete_list(list), "a result");
        return tensors;
    }

    /// <summary>Returns the tensor of a result, in the current dispose scope.</summary>
    public static Tensor Take(ulong result) => Tensor.UnsafeCreateTensor((IntPtr)result);

    /// <summary>Frees the tensor of a result, such as that of an in-place operator.</summary>
    public static void Drop(ulong result) => Check(aoti_torch_delete_tensor_object((IntPtr)result), "a result");

    /// <summary>Makes an image tensor [N, C, H, W] dense with the channels innermost in memory.</summary>
    public static Tensor ChannelsLast(Tensor x) => Call("aten::contiguous"u8, [], [Of(x), Of(channelsLast)]);

    /// <summary>Returns the version counter of a tensor, which counts in-place changes.</summary>
    public static long Version(Tensor x)
    {
        Span<ulong> stack = [Of(x)];
        Invoke("aten::_version"u8, [], stack);
        return (long)stack[0];
    }

    /// <summary>Returns the address of the first element in the device's memory.</summary>
    public static nint Address(Tensor x)
    {
        Check(aoti_torch_get_data_ptr(x.Handle, out nint address), "an address");
        GC.KeepAlive(x);
        return address;
    }

    private static ulong List(int capacity)
    {
        Check(torch_new_list_reserve_size((nuint)capacity, out var list), "a list");
        return (ulong)list;
    }

    private static void Add(ulong list, ulong word) => Check(torch_list_push_back((IntPtr)list, word), "a list");

    private static void Check(int code, string what)
    {
        if (code != 0)
            throw new ExternalException($"libtorch could not pass on {what}: see the error stream");
    }

    [DllImport(Natives.Torch)] private static extern ulong aoti_torch_abi_version();
    [DllImport(Natives.Torch)] private static extern int torch_call_dispatcher(byte* name, byte* overload, ulong* stack, ulong version);
    [DllImport(Natives.Torch)] private static extern int aoti_torch_new_tensor_handle(IntPtr from, out IntPtr to);
    [DllImport(Natives.Torch)] private static extern int aoti_torch_delete_tensor_object(IntPtr tensor);
    [DllImport(Natives.Torch)] private static extern int aoti_torch_get_data_ptr(IntPtr tensor, out nint address);
    [DllImport(Natives.Torch)] private static extern int torch_new_list_reserve_size(nuint size, out IntPtr list);
    [DllImport(Natives.Torch)] private static extern int torch_list_push_back(IntPtr list, ulong item);
    [DllImport(Natives.Torch)] private static extern int torch_list_size(IntPtr list, out nuint size);
    [DllImport(Natives.Torch)] private static extern int torch_list_get_item(IntPtr list, nuint at, out ulong item);
    [DllImport(Natives.Torch)] private static extern int torch_delete_list(IntPtr list);
    [DllImport(Natives.Torch)] private static extern int torch_new_string_handle(byte* text, nuint length, out IntPtr handle);
}
