using System.Runtime.InteropServices;

namespace Ctkd.Engine;

/// <summary>Sets switches of libtorch's <c>at::Context</c> that TorchSharp lacks, by mangled name: on Linux and macOS.</summary>
internal static unsafe class Context
{
    internal const string Global = "_ZN2at13globalContextEv";
    internal const string Mkldnn = "_ZN2at7Context20setUserEnabledMkldnnEb";
    internal const string Nnpack = "_ZN2at7Context20setUserEnabledNNPACKEb";
    internal const string DeterministicCuDnn = "_ZN2at7Context21setDeterministicCuDNNEb";
    internal const string BenchmarkCuDnn = "_ZN2at7Context17setBenchmarkCuDNNEb";

    /// <summary>Sets a switch; returns false if this libtorch does not export it.</summary>
    internal static bool TrySet(string name, bool value)
    {
        string file = OperatingSystem.IsMacOS() ? "libtorch_cpu.dylib" : "libtorch_cpu.so";
        if (OperatingSystem.IsWindows()
            || !NativeLibrary.TryLoad(file, out nint library)
            || !NativeLibrary.TryGetExport(library, Global, out nint context)
            || !NativeLibrary.TryGetExport(library, name, out nint set))
            return false;
        ((delegate* unmanaged<nint, byte, void>)set)(((delegate* unmanaged<nint>)context)(), value ? (byte)1 : (byte)0);
        return true;
    }
}
