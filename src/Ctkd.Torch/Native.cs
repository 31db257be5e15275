using System.Reflection;
using System.Runtime.InteropServices;

namespace Ctkd.Torch;

/// <summary>libtorch refused an operation; the message is its own, without the C++ backtrace.</summary>
public sealed class TorchException(string message) : Exception(message);

/// <summary>The engine is not there: the shim or the libtorch that it was built against cannot be loaded.</summary>
public sealed class EngineMissingException(string message) : Exception(message);

/// <summary>One argument as the shim reads it: 16 bytes, see <c>native/dispatch.cpp</c>.</summary>
[StructLayout(LayoutKind.Explicit, Size = 16)]
internal unsafe struct NativeValue
{
    [FieldOffset(0)] internal int Tag;
    [FieldOffset(4)] internal int Count;
    [FieldOffset(8)] internal long Integer;
    [FieldOffset(8)] internal double Number;
    [FieldOffset(8)] internal void* Data;
}

/// <summary>The C ABI of <c>native/</c>, one declaration a function, and the one place that finds the library.</summary>
internal static unsafe partial class Native
{
    private const string Library = "ctkd_torch";
    private const int Abi = 1;

    // The runtime asks the resolver anew for every function: the library is found and started once for all of them.
    private static readonly Lazy<IntPtr> library = new(Load, LazyThreadSafetyMode.ExecutionAndPublication);

    static Native() =>
        NativeLibrary.SetDllImportResolver(
            typeof(Native).Assembly, (name, _, _) => name == Library ? library.Value : IntPtr.Zero);

    private static IntPtr Load()
    {
        // F# Interactive loads the assembly from elsewhere than the program's folder: look beside both.
        string file = "libctkd_torch.so";
        // A package keeps it under runtimes/ until the program is published.
        string packaged = Path.Combine("runtimes", RuntimeInformation.RuntimeIdentifier, "native");
        string?[] beside = [Path.GetDirectoryName(typeof(Native).Assembly.Location), AppContext.BaseDirectory];
        string?[] folders = [.. beside, .. beside.Where(f => !string.IsNullOrEmpty(f)).Select(f => Path.Combine(f!, packaged))];
        string? named = Environment.GetEnvironmentVariable("CTKD_NATIVE");
        string? found = named ?? folders.Where(f => !string.IsNullOrEmpty(f)).Select(f => Path.Combine(f!, file)).FirstOrDefault(File.Exists);

        if (found is null)
            throw new EngineMissingException($"{file} is not in {string.Join(" nor in ", folders.Distinct())}");

        // OpenMP's threads wait for each other by spinning. Alone, 3,000 turns are as fast as its default of 300,000, and
        // 1,000 are 7 % slower; beside another busy program both run 1.4 times as fast. It reads this when it is loaded.
        _ = setenv("GOMP_SPINCOUNT", "3000", 0);
        // Without it cuBLAS does not promise the same bits twice (CUDA 10.2 and later).
        _ = setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);

        IntPtr handle;
        try
        {
            handle = NativeLibrary.Load(found);
        }
        catch (Exception error) when (error is DllNotFoundException or BadImageFormatException)
        {
            // The loader's own words are the last line; above it .NET advises on debugging.
            throw new EngineMissingException($"{found} cannot be loaded: {error.Message.Trim().Split('\n')[^1]}");
        }

        Start(handle, found);
        return handle;
    }

    // Runs once, before the first call: refuses a shim of another version and sets what every process wants.
    private static void Start(IntPtr handle, string path)
    {
        int abi = ((delegate* unmanaged<int>)NativeLibrary.GetExport(handle, "ctkd_abi"))();
        if (abi != Abi)
            throw new EngineMissingException($"{path} has version {abi} of the interface, this program needs {Abi}");

        ((delegate* unmanaged<void>)NativeLibrary.GetExport(handle, "ctkd_keep_memory"))();

        // Debian's libtorch may come up with one thread; OMP_NUM_THREADS stays the user's word.
        if (Environment.GetEnvironmentVariable("OMP_NUM_THREADS") is null or "")
            _ = ((delegate* unmanaged<int, int>)NativeLibrary.GetExport(handle, "ctkd_set_threads"))(Environment.ProcessorCount);
    }

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int setenv(string name, string value, int overwrite);

    /// <summary>Raises the shim's message when a call failed.</summary>
    internal static int Check(int result) => result < 0 ? throw Failure() : result;

    internal static IntPtr Check(IntPtr handle) => handle == IntPtr.Zero ? throw Failure() : handle;

    internal static TorchException Failure() => new(Marshal.PtrToStringUTF8(ctkd_last_error()) ?? "unknown failure");

    [LibraryImport(Library)] private static partial IntPtr ctkd_last_error();

    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial IntPtr ctkd_op_find(string name, string overload);

    [LibraryImport(Library)] internal static partial IntPtr ctkd_op_arguments(IntPtr op);

    [LibraryImport(Library)]
    internal static partial int ctkd_op_call(IntPtr op, NativeValue* values, int count, IntPtr* results, int capacity);

    [LibraryImport(Library)] internal static partial int ctkd_op_take(IntPtr* results, int count);

    [LibraryImport(Library)]
    internal static partial IntPtr ctkd_tensor_create(void* data, long bytes, long* shape, int rank, int dtype);

    [LibraryImport(Library)] internal static partial int ctkd_tensor_read(IntPtr tensor, void* data, long bytes);

    [LibraryImport(Library)] internal static partial void ctkd_tensor_free(IntPtr tensor);

    [LibraryImport(Library), SuppressGCTransition] internal static partial int ctkd_tensor_rank(IntPtr tensor);

    [LibraryImport(Library), SuppressGCTransition] internal static partial long ctkd_tensor_size(IntPtr tensor, int dim);

    [LibraryImport(Library), SuppressGCTransition] internal static partial long ctkd_tensor_numel(IntPtr tensor);

    [LibraryImport(Library), SuppressGCTransition] internal static partial int ctkd_tensor_dtype(IntPtr tensor);

    [LibraryImport(Library), SuppressGCTransition] internal static partial long ctkd_tensor_device(IntPtr tensor);

    [LibraryImport(Library), SuppressGCTransition] internal static partial int ctkd_tensor_channels_last(IntPtr tensor);

    [LibraryImport(Library), SuppressGCTransition] internal static partial int ctkd_tensor_requires_grad(IntPtr tensor);

    [LibraryImport(Library)] internal static partial int ctkd_tensor_set_requires_grad(IntPtr tensor, int value);

    [LibraryImport(Library)]
    internal static partial int ctkd_grad(IntPtr* outputs, int outputCount, IntPtr* inputs, int inputCount, int retain, int create, IntPtr* gradients);

    [LibraryImport(Library), SuppressGCTransition] internal static partial int ctkd_grad_mode(int enabled);

    [LibraryImport(Library)] internal static partial int ctkd_autocast(int device, int enabled, int dtype);

    [LibraryImport(Library)] internal static partial IntPtr ctkd_version();

    [LibraryImport(Library)] internal static partial IntPtr ctkd_config();

    [LibraryImport(Library)] internal static partial int ctkd_threads();

    [LibraryImport(Library)] internal static partial int ctkd_set_threads(int count);

    [LibraryImport(Library)] internal static partial int ctkd_has_mkldnn();
    [LibraryImport(Library)] internal static partial int ctkd_fuses();

    [LibraryImport(Library)] internal static partial int ctkd_seed(long device, ulong seed);

    [LibraryImport(Library)] internal static partial IntPtr ctkd_generator_state(long device);

    [LibraryImport(Library)] internal static partial int ctkd_set_generator_state(long device, IntPtr state);

    [LibraryImport(Library)] internal static partial int ctkd_deterministic(int enabled);

    [LibraryImport(Library)] internal static partial int ctkd_tf32(int enabled);

    [LibraryImport(Library)] internal static partial int ctkd_cuda_devices();

    [LibraryImport(Library)] internal static partial int ctkd_cuda_synchronize();

    [LibraryImport(Library)] internal static partial long ctkd_cuda_memory(long device);

    [LibraryImport(Library)] internal static partial IntPtr ctkd_graph_new(long device);

    [LibraryImport(Library)] internal static partial int ctkd_graph_enter(IntPtr graph);

    [LibraryImport(Library)] internal static partial int ctkd_graph_leave(IntPtr graph);

    [LibraryImport(Library)] internal static partial int ctkd_graph_begin(IntPtr graph);

    [LibraryImport(Library)] internal static partial int ctkd_graph_end(IntPtr graph);

    [LibraryImport(Library)] internal static partial int ctkd_graph_replay(IntPtr graph);

    [LibraryImport(Library)] internal static partial void ctkd_graph_free(IntPtr graph);
}
