using System.Runtime.InteropServices;
using TorchSharp;

namespace Ctkd.Engine;

/// <summary>The native libraries of one libtorch and TorchSharp's own, as files.</summary>
/// <param name="Folder">Where libtorch lies.</param>
/// <param name="Sharp">TorchSharp's native library.</param>
/// <param name="IsOwn">Whether LIBTORCH names the libtorch.</param>
internal sealed record Libraries(string Folder, string Sharp, bool IsOwn)
{
    /// <summary>The version that TorchSharp's native library is compiled for.</summary>
    public const string Wanted = "2.10";

    private static readonly string[] always = ["c10", "torch_cpu"], cuda = ["c10_cuda", "torch_cuda"], last = ["torch"];

    /// <summary>What is loaded, each after what it needs.</summary>
    public IEnumerable<string> Names => [.. always, .. HasCuda ? cuda : [], .. last];

    /// <summary>Whether this libtorch has CUDA's part.</summary>
    public bool HasCuda => cuda.All(name => File.Exists(PathOf(name)));

    /// <summary>The file of one of libtorch's libraries.</summary>
    public string PathOf(string name) => Path.Combine(Folder, NativeFile.NameOf(name));

    /// <summary>Looks for the libtorch that LIBTORCH names, or for the package's, and for TorchSharp's native library.</summary>
    /// <exception cref="EngineMissingException">One of them is absent or damaged.</exception>
    public static Libraries Find()
    {
        string? own = Environment.GetEnvironmentVariable("LIBTORCH");
        bool isOwn = !string.IsNullOrEmpty(own);
        string folder = isOwn ? Named(own!) : Packaged("torch_cpu", LibtorchPackage, $"{LibtorchPackage} {Wanted}.0, or set LIBTORCH to the torch folder of a PyTorch {Wanted}");
        string sharp = Packaged("LibTorchSharp", "torchsharp", "TorchSharp");
        var found = new Libraries(folder, Path.Combine(sharp, NativeFile.NameOf("LibTorchSharp")), isOwn);
        foreach (string name in found.Names)
            found.Inspect(found.PathOf(name));
        found.Inspect(found.Sharp);
        return found;
    }

    /// <summary>The version that the folder's own files state: PyTorch's, or an unpacked libtorch's.</summary>
    public string StatedVersion
    {
        get
        {
            string root = Path.GetDirectoryName(Folder) ?? Folder;
            string[] lines = [.. new[] { "version.py", "build-version" }
                .Select(name => Path.Combine(root, name))
                .Where(File.Exists)
                .SelectMany(File.ReadLines)
                .Select(line => line.Replace("__version__ = ", "").Trim('\'', '"', ' '))
                .Where(line => line.Length is > 0 and < 40 && char.IsAsciiDigit(line[0]))];
            return lines.FirstOrDefault() ?? "of unknown version";
        }
    }

    /// <summary>A library of the same name from another libtorch, where the program's own search for libraries finds one.</summary>
    public string? Other(string name) =>
        Listed.Select(folder => Path.Combine(folder, NativeFile.NameOf(name)))
            .FirstOrDefault(path => File.Exists(path) && path != PathOf(name));

    /// <summary>What to do about a library of these that cannot be used.</summary>
    public string Next(string path) =>
        IsOwn && path != Sharp
            ? $"set LIBTORCH to the torch folder of a PyTorch {Wanted}, or unset it"
            : "delete this file and its package's folder in NuGet's cache (dotnet nuget locals global-packages --list), then build again";

    private void Inspect(string path)
    {
        string? fault;
        try
        {
            fault = File.Exists(path) ? NativeFile.Fault(path) : "it is not there";
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            fault = error.Message;
        }

        if (fault is not null)
            throw new EngineMissingException($"{Path.GetFileName(path)} cannot be used: {fault}", path, Next(path));
    }

    private static string Platform
    {
        get
        {
            string system = OperatingSystem.IsWindows() ? "win" : OperatingSystem.IsMacOS() ? "osx" : "linux";
            return $"{system}-{RuntimeInformation.ProcessArchitecture.ToString().ToLowerInvariant()}";
        }
    }

    private static string LibtorchPackage => $"libtorch-cpu-{Platform}";

    /// <summary>Where a program that was built or published looks for libraries.</summary>
    private static IEnumerable<string> Listed =>
        (AppContext.GetData("NATIVE_DLL_SEARCH_DIRECTORIES") as string ?? "")
        .Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
        .Select(Path.TrimEndingDirectorySeparator);

    /// <summary>The folder of the libtorch that LIBTORCH names: PyTorch's, or its lib.</summary>
    private static string Named(string value)
    {
        string[] inside = ["lib", ".", "torch/lib", "libtorch/lib"];
        return inside.Select(inner => Path.GetFullPath(Path.Combine(value, inner)).TrimEnd(Path.DirectorySeparatorChar))
            .FirstOrDefault(folder => File.Exists(Path.Combine(folder, NativeFile.NameOf("torch_cpu"))))
            ?? throw new EngineMissingException(
                $"LIBTORCH names no libtorch: no {NativeFile.NameOf("torch_cpu")} in it or its lib",
                value,
                "set it to what this prints, or unset it: python3 -c 'import torch; print(torch.__path__[0])'");
    }

    /// <summary>The folder of a package's native library, for this platform.</summary>
    private static string Packaged(string name, string package, string add)
    {
        var folders = Folders(package).Distinct().ToList();
        return folders.FirstOrDefault(folder => File.Exists(Path.Combine(folder, NativeFile.NameOf(name))))
            ?? throw new EngineMissingException(
                $"{NativeFile.NameOf(name)} is not there", string.Join(Path.PathSeparator, folders), $"add the package {add}");
    }

    private static IEnumerable<string> Folders(string package)
    {
        string native = Path.Combine("runtimes", Platform, "native");
        foreach (string folder in Listed)
            yield return folder;

        string? assembly = Path.GetDirectoryName(typeof(torch).Assembly.Location);
        string[] beside = [Path.TrimEndingDirectorySeparator(AppContext.BaseDirectory), .. string.IsNullOrEmpty(assembly) ? Array.Empty<string>() : [assembly]];
        foreach (string folder in beside)
        {
            yield return folder;
            yield return Path.Combine(folder, native);
        }

        // F# Interactive uses assemblies where NuGet keeps them: packages/torchsharp/0.107.0/lib/net8.0.
        string? cache = assembly is null ? null : Path.GetFullPath(Path.Combine(assembly, "..", "..", "..", ".."));
        if (cache is null || !Directory.Exists(Path.Combine(cache, package)))
            yield break;
        string version = Path.GetFileName(Path.GetFullPath(Path.Combine(assembly!, "..", "..")));
        yield return package == "torchsharp"
            ? Path.Combine(cache, package, version, native)
            : Path.Combine(cache, package, $"{Wanted}.0", native);
    }
}
