using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Loader;
using TorchSharp;

namespace Ctkd.Engine;

/// <summary>
/// Loads libtorch and TorchSharp's native library, once per process and before anything else uses <c>torch</c>: in
/// built and published programs, in F# Interactive and in programs that use the package.
/// </summary>
public static partial class Natives
{
    /// <summary>P/Invoke name of libtorch in this assembly, on every platform.</summary>
    internal const string Torch = "torch_cpu";

    /// <summary>P/Invoke name of its base library, which has the allocators.</summary>
    internal const string C10 = "c10";

    /// <summary>P/Invoke name of its CUDA library.</summary>
    internal const string TorchCuda = "torch_cuda";

    private const string C10Cuda = "c10_cuda", sharp = "LibTorchSharp";

    private sealed record Opened(Libraries Libraries, Dictionary<string, IntPtr> Handles, string Copy, string? Check);

    private static readonly Lazy<Opened> opened = new(OpenAll);

    private static readonly Lazy<EngineFacts> loaded = new(Start);

    /// <summary>Loads the libraries if necessary. Cheap afterwards, and thread-safe.</summary>
    /// <exception cref="EngineMissingException">A library is missing, damaged, foreign, or computes wrongly.</exception>
    public static EngineFacts Load() => loaded.Value;

    /// <summary>The libraries' files.</summary>
    internal static IReadOnlyList<string> Files
    {
        get
        {
            var libraries = Libraries.Find();
            return [.. libraries.Names.Select(libraries.PathOf), libraries.Sharp];
        }
    }

    /// <summary>
    /// Whether to do more than loading. The environment variable CTKD_TUNING=none turns it off: memory, waiting threads
    /// and selection of kernels are then TorchSharp's, to measure a program as it would run without this library.
    /// </summary>
    internal static bool Tunes => Environment.GetEnvironmentVariable("CTKD_TUNING") != "none";

    /// <summary>The folder for files that can be recreated, such as copies and check results.</summary>
    internal static string Cache
    {
        get
        {
            string? named = Environment.GetEnvironmentVariable("XDG_CACHE_HOME");
            string home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
            string standard = OperatingSystem.IsWindows()
                ? Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData)
                : Path.Combine(home, OperatingSystem.IsMacOS() ? "Library/Caches" : ".cache");
            return Path.Combine(Path.IsPathRooted(named) ? named : standard, "ctkd");
        }
    }

    // P/Invoke in this assembly loads the engine. If TorchSharp's own search comes first, it finds the libraries too.
#pragma warning disable CA2255 // The attribute is meant for programs: here it only registers functions.
    [ModuleInitializer]
#pragma warning restore CA2255
    internal static void Register()
    {
        NativeLibrary.SetDllImportResolver(
            typeof(Natives).Assembly,
            (name, _, _) => name is Torch or TorchCuda && Load() is not null ? HandleOf(name) : IntPtr.Zero);
        AssemblyLoadContext.GetLoadContext(typeof(Natives).Assembly)!.ResolvingUnmanagedDll +=
            (assembly, name) => assembly.GetName().Name == "TorchSharp" ? HandleOf(name) : IntPtr.Zero;
    }

    private static IntPtr HandleOf(string name) =>
        opened.Value.Handles.TryGetValue(name, out var handle) ? handle : IntPtr.Zero;

    /// <summary>Loads the libraries. Must not use <c>torch</c>, which may be waiting for them.</summary>
    private static Opened OpenAll()
    {
        var libraries = Libraries.Find();
        string? check = null;
        if (libraries.IsOwn)
        {
            RefuseSecond(libraries);
            check = ChildCheck.IsChild ? null : Check(libraries);
        }

        if (Tunes)
            SetUp();
        var handles = new Dictionary<string, IntPtr>();
        foreach (string name in libraries.Names)
        {
            if (name == C10Cuda && libraries.IsOwn)
                PreloadCuda(libraries);
            handles[name] = Open(libraries, libraries.PathOf(name));
        }

        string copy = OpenSharp(libraries, handles);
        return new(libraries, handles, copy, check);
    }

    private static EngineFacts Start()
    {
        var (libraries, handles, copy, check) = opened.Value;
        KeepOthersOut(libraries);
        Heap.Use(handles[C10], handles[Torch]);
        // Otherwise NNPACK warns at each call on processors that it does not know; oneDNN is faster anyway.
        if (Tunes)
            Context.TrySet(Context.Nnpack, false);
        string? oneDnn = Tunes ? ProcessorCaches.Mend(libraries.PathOf(Torch), handles[Torch]) : null;
        return new(
            VersionOf(handles[Torch]), libraries.Folder, libraries.IsOwn, libraries.HasCuda, copy, copy != libraries.Sharp, check, oneDnn);
    }

    /// <summary>Two libtorches in one process share symbols, and computing then crashes.</summary>
    private static void RefuseSecond(Libraries libraries)
    {
        string end = "/" + NativeFile.NameOf(Torch);
        if (OperatingSystem.IsLinux() && File.ReadLines("/proc/self/maps").Any(line => line.EndsWith(end, StringComparison.Ordinal)))
            throw new EngineMissingException(
                "LIBTORCH names a libtorch, and another one was loaded before", libraries.Folder, "call Ctkd.Engine.Natives.Load() before torch is used");
    }

    /// <summary>Loads TorchSharp's native library, or a copy adapted to this system.</summary>
    private static string OpenSharp(Libraries libraries, Dictionary<string, IntPtr> handles)
    {
        if (NativeLibrary.TryLoad(libraries.Sharp, out var handle))
        {
            handles[sharp] = handle;
            return libraries.Sharp;
        }

        if (OperatingSystem.IsLinux() && RelaxedLibrary.Relax(File.ReadAllBytes(libraries.Sharp)) is { } relaxed)
        {
            string name = Path.GetFileName(libraries.Sharp);
            if (TryOpen(() => RelaxedLibrary.Keep(relaxed, name, Cache), out string kept, out handle))
            {
                handles[sharp] = handle;
                return kept;
            }

            // The cache is not writable, or does not allow execution: use a copy for this process only.
            string folder = Directory.CreateTempSubdirectory("ctkd-").FullName;
            try
            {
                string copy = RelaxedLibrary.Keep(relaxed, name, folder);
                handles[sharp] = Open(libraries, copy);
                return copy;
            }
            finally
            {
                Directory.Delete(folder, recursive: true);
            }
        }

        // For the loader's message.
        handles[sharp] = Open(libraries, libraries.Sharp);
        return libraries.Sharp;
    }

    private static bool TryOpen(Func<string> keep, out string path, out IntPtr handle)
    {
        (path, handle) = ("", IntPtr.Zero);
        try
        {
            path = keep();
            return NativeLibrary.TryLoad(path, out handle);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>
    /// Loads CUDA's own libraries from where a PyTorch from pip keeps them, <c>nvidia/cublas/lib</c> and the like or
    /// <c>nvidia/cu13/lib</c>, if libtorch's do not find them by themselves. PyTorch does the same.
    /// </summary>
    private static void PreloadCuda(Libraries libraries)
    {
        string nvidia = Path.GetFullPath(Path.Combine(libraries.Folder, "..", "..", "nvidia"));
        if (!Directory.Exists(nvidia) || NativeLibrary.TryLoad(libraries.PathOf(TorchCuda), out _))
            return;
        // Each after its dependencies.
        string[] names =
        [
            "cudart", "nvJitLink", "nvrtc-builtins", "nvrtc", "cublasLt", "cublas", "cupti", "cusparse", "cusparseLt", "cusolver",
            "cufft", "curand", "cudnn", "cufile", "nccl", "nvshmem_host", "nvToolsExt",
        ];
        string[] folders = [.. Directory.GetDirectories(nvidia).Select(folder => Path.Combine(folder, "lib")).Where(Directory.Exists)];
        foreach (string file in names.SelectMany(name => folders.SelectMany(folder => Directory.GetFiles(folder, $"lib{name}.so*"))))
            NativeLibrary.TryLoad(file, out _);
    }

    private static IntPtr Open(Libraries libraries, string path)
    {
        try
        {
            return NativeLibrary.Load(path);
        }
        catch (Exception error) when (error is DllNotFoundException or BadImageFormatException)
        {
            // The last line is the loader's message; the lines above it are .NET's advice on debugging.
            string words = error.Message.Trim().Split('\n')[^1];
            throw new EngineMissingException($"{Path.GetFileName(path)} cannot be loaded: {words}", path, libraries.Next(path));
        }
    }

    /// <summary>Checks a libtorch that is not from a package in a child process, before this one uses it.</summary>
    private static string Check(Libraries libraries)
    {
        var verdict = ChildCheck.Run("results", [.. libraries.Names.Select(libraries.PathOf), libraries.Sharp]);
        if (verdict.Fault is not null)
            throw new EngineMissingException(
                $"the libtorch {libraries.StatedVersion} that LIBTORCH names does not pass the self-check, wanted is {Libraries.Wanted}: {verdict.Fault}",
                libraries.Folder,
                libraries.Next(libraries.Folder));
        return verdict.IsRemembered ? "passed before" : "passed";
    }

    /// <summary>
    /// TorchSharp searches for the libraries by name. Makes it use those that this process has loaded, not another
    /// libtorch in the program's folder.
    /// </summary>
    private static void KeepOthersOut(Libraries libraries)
    {
        string[] flags = ["nativeBackendLoaded", "nativeBackendCudaLoaded"];
        var fields = flags.Select(name => typeof(torch).GetField(name, BindingFlags.NonPublic | BindingFlags.Static)).ToList();
        // It searches for CUDA's library before its flags can be set, and for all libraries without such flags.
        string[] unguarded = fields.Contains(null) ? [Torch, TorchCuda] : [TorchCuda];
        if (unguarded.Select(libraries.Other).FirstOrDefault(path => path is not null) is { } other)
            throw new EngineMissingException(
                "LIBTORCH names a libtorch, and the program has another one that TorchSharp would load too",
                other,
                "unset LIBTORCH, or build the program without it: -p:Device=none, or CtkdLibtorch=none for users of the package");

        foreach (var field in fields)
            field?.SetValue(null, true);
    }

    private static string VersionOf(IntPtr libtorch)
    {
        if (!NativeLibrary.TryGetExport(libtorch, "aoti_torch_abi_version", out var function))
            return "before 2.10";
        ulong version;
        unsafe
        {
            version = ((delegate* unmanaged<ulong>)function)();
        }

        return $"{version >> 56}.{(version >> 48) & 0xff}.{(version >> 40) & 0xff}";
    }

    /// <summary>Applies settings that must precede libtorch's first allocation.</summary>
    private static void SetUp()
    {
        // cuBLAS is bit-reproducible only with this setting.
        const string workspace = "CUBLAS_WORKSPACE_CONFIG", size = ":4096:8";
        if (OperatingSystem.IsWindows())
        {
            if (Environment.GetEnvironmentVariable(workspace) is null)
                Environment.SetEnvironmentVariable(workspace, size);
            return;
        }

        _ = setenv(workspace, size, 0);
        if (OperatingSystem.IsLinux())
            KeepMemory();
    }

    /// <summary>
    /// Makes glibc keep freed memory. By default it returns large blocks, such as activations, to the kernel and gets
    /// them back page by page in the next step; a training step then takes twice as long.
    /// </summary>
    private static void KeepMemory()
    {
        const int mostMappings = -4, trimAbove = -1, growBy = -2;
        (int, int)[] settings = [(mostMappings, 0), (trimAbove, 1 << 30), (growBy, 64 << 20)];
        foreach (var (setting, value) in settings)
            _ = mallopt(setting, value);
    }

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int setenv(string name, string value, int overwrite);

    [LibraryImport("libc")]
    private static partial int mallopt(int setting, int value);
}
