using System.Runtime.InteropServices;
using TorchSharp;

namespace Ctkd.Engine;

/// <summary>The files of a libtorch's native libraries and of TorchSharp's own.</summary>
/// <param name="Folder">libtorch's folder.</param>
/// <param name="Sharp">TorchSharp's native library.</param>
/// <param name="IsOwn">Whether LIBTORCH names the libtorch.</param>
internal sealed record Libraries(string Folder, string Sharp, bool IsOwn)
{
    /// <summary>The version of libtorch that TorchSharp's native library is compiled for.</summary>
    public const string Wanted = "2.10";

    private static readonly string[] always = ["c10", "torch_cpu"], cuda = ["c10_cuda", "torch_cuda"], last = ["torch"];

    /// <summary>The libraries to load, each after its dependencies.</summary>
    public IEnumerable<string> Names => [.. always, .. HasCuda ? cuda : [], .. last];

    /// <summary>Whether this libtorch includes CUDA.</summary>
    public bool HasCuda => cuda.All(name => File.Exists(PathOf(name)));

    /// <summary>Returns the file of one of libtorch's libraries.</summary>
    public string PathOf(string name) => Path.Combine(Folder, NativeFile.NameOf(name));

    /// <summary>Finds the libtorch named by LIBTORCH, or else the package's, and TorchSharp's native library.</summary>
    /// <exception cref="EngineMissingException">One of them is missing or damaged.</exception>
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

    /// <summary>The version in the folder's own files: PyTorch's, or an unpacked libtorch's.</summary>
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

    /// <summary>Returns a library of the same name from another libtorch, if the program's library search would find one.</summary>
    public string? Other(string name) =>
        Listed.Select(folder => Path.Combine(folder, NativeFile.NameOf(name)))
            .FirstOrDefault(path => File.Exists(path) && path != PathOf(name));

    /// <summary>Returns how to fix one of these libraries that cannot be used.</summary>
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

    /// <summary>The folders that a built or published program searches for libraries.</summary>
    private static IEnumerable<string> Listed =>
        (AppContext.GetData("NATIVE_DLL_SEARCH_DIRECTORIES") as string ?? "")
        .Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
        .Select(Path.TrimEndingDirectorySeparator);

    /// <summary>Returns the folder of the libtorch named by LIBTORCH: PyTorch's, or its lib.</summary>
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

    /// <summary>Returns the folder of a package's native library for this platform.</summary>
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

        // F# Interactive loads assemblies from NuGet's cache: packages/torchsharp/0.107.0/lib/net8.0.
        string? cache = assembly is null ? null : Path.GetFullPath(Path.Combine(assembly, "..", "..", "..", ".."));
        if (cache is null || !Directory.Exists(Path.Combine(cache, package)))
            yield break;
        string version = Path.GetFileName(Path.GetFullPath(Path.Combine(assembly!, "..", "..")));
        yield return package == "torchsharp"
            ? Path.Combine(cache, package, version, native)
            : Path.Combine(cache, package, $"{Wanted}.0", native);
    }
}
