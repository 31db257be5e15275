using System.Diagnostics;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using System.Runtime.Loader;
using System.Security.Cryptography;
using System.Text;

namespace Ctkd.Engine;

/// <summary>
/// Runs checks that may crash the process in a child process, and remembers which passed. The child is this program
/// again, with this assembly as the runtime's start-up hook: the hook runs the check and exits before the program's own
/// code runs. This works for built and published programs and under F# Interactive.
/// </summary>
internal static class ChildCheck
{
    // Tell the child which check to run, and where TorchSharp is.
    private const string task = "CTKD_CHECK", torchSharp = "CTKD_CHECK_TORCHSHARP";

    private const string mark = "ctkd-check";

    private static readonly TimeSpan limit = TimeSpan.FromMinutes(3);

    /// <summary>The checks by name; each returns what is wrong, or null.</summary>
    private static readonly Dictionary<string, Func<string?>> checks = new() { ["results"] = ResultCheck.Run, ["graph"] = GraphCheck.Run, ["torchscript"] = TorchScriptCheck.Run };

    /// <summary>Whether this process exists only to run a check.</summary>
    public static bool IsChild { get; private set; }

    /// <summary>The result of a check: what is wrong, or null, and whether it was remembered from an earlier run.</summary>
    public readonly record struct Verdict(string? Fault, bool IsRemembered);

    /// <summary>Runs a check in a child process, unless it passed before with the same files on the same kind of processor.</summary>
    /// <param name="check">The name of the check.</param>
    /// <param name="files">The files that determine the result.</param>
    /// <param name="about">What else determines it.</param>
    /// <param name="told">Variables that the child finds.</param>
    public static Verdict Run(string check, IEnumerable<string> files, string about = "", params (string Name, string Value)[] told)
    {
        if (Environment.GetEnvironmentVariable(task) is not null)
            return new("a check started this program, and not itself", false);
        string subject = Subject(about.Length == 0 ? check : $"{check} {about}", files);
        string name = Convert.ToHexString(SHA256.HashData(Encoding.UTF8.GetBytes(subject)))[..16];
        string memory = Path.Combine(Natives.Cache, "checks", name);
        if (Remembered(memory) == subject)
            return new(null, true);
        string? fault = Start(check, told);
        if (fault is null)
            Remember(memory, subject);
        return new(fault, false);
    }

    /// <summary>Runs the check in the child, and exits.</summary>
    public static void RunAsChild()
    {
        if (Environment.GetEnvironmentVariable(task) is not { } check)
            return;
        IsChild = true;
        // Under F# Interactive the program does not reference TorchSharp.
        string path = Environment.GetEnvironmentVariable(torchSharp) ?? "";
        AssemblyLoadContext.Default.Resolving += (context, name) =>
            name.Name == "TorchSharp" && File.Exists(path) ? context.LoadFromAssemblyPath(path) : null;
        string? fault;
        try
        {
            fault = checks[check]();
        }
        catch (Exception error)
        {
            fault = error is EngineMissingException missing ? missing.What : error.Message;
        }

        Console.WriteLine($"{mark} {(fault is null ? "passed" : $"failed {fault.ReplaceLineEndings(" ")}")}");
        Console.Out.Flush();
        Environment.Exit(fault is null ? 0 : 1);
    }

    private static string? Start(string check, (string Name, string Value)[] told)
    {
        if (AppContext.TryGetSwitch("System.StartupHookProvider.IsSupported", out bool hooks) && !hooks)
            return "this program has no start-up hooks (StartupHookSupport), so that nothing can be checked";
        string program = Environment.ProcessPath ?? "dotnet";
        bool isRuntime = Path.GetFileNameWithoutExtension(program) == "dotnet";
        var info = new ProcessStartInfo(program, isRuntime ? Managed(Environment.GetCommandLineArgs()[0]) : [])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        string own = typeof(ChildCheck).Assembly.Location;
        info.Environment["DOTNET_STARTUP_HOOKS"] = own.Length > 0 ? own : typeof(ChildCheck).Assembly.GetName().Name;
        info.Environment[task] = check;
        foreach (var (name, value) in told)
            info.Environment[name] = value;
        info.Environment[torchSharp] = typeof(TorchSharp.torch).Assembly.Location;

        try
        {
            using var child = Process.Start(info)!;
            return Outcome(child);
        }
        catch (System.ComponentModel.Win32Exception error)
        {
            return $"{program} does not start: {error.Message}";
        }
    }

    /// <summary>The runtime's arguments for the program: its settings may be another program's, as under a test host.</summary>
    private static string[] Managed(string program)
    {
        string? settings = File.Exists(Path.ChangeExtension(program, "runtimeconfig.json"))
            ? null
            : Directory.GetFiles(AppContext.BaseDirectory, "*.runtimeconfig.json").FirstOrDefault();
        return settings is null ? [program] : ["exec", "--runtimeconfig", settings, program];
    }

    private static string? Outcome(Process child)
    {
        child.StandardInput.Close();
        var errors = child.StandardError.ReadToEndAsync();
        var output = child.StandardOutput.ReadToEndAsync();
        // A grandchild may outlive it and keep its output open.
        if (!child.WaitForExit(limit) || !Task.WaitAll([output, errors], limit))
        {
            child.Kill(entireProcessTree: true);
            return $"no answer within {limit.TotalSeconds} seconds";
        }

        return Reading(output.Result, errors.Result, child.ExitCode);
    }

    /// <summary>Returns what the child's output reports as wrong, or null.</summary>
    internal static string? Reading(string output, string errors, int code)
    {
        string answer = output.Split('\n').LastOrDefault(line => line.StartsWith(mark, StringComparison.Ordinal))?.Trim() ?? "";
        if (answer == $"{mark} passed" && code == 0)
            return null;
        if (answer.StartsWith($"{mark} failed ", StringComparison.Ordinal))
            return answer[$"{mark} failed ".Length..];
        // For a C++ exception the line with its message, and the cause that a program's traceback ends with; else the last line.
        string[] lines = errors.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        string? line = lines.FirstOrDefault(text => text.StartsWith("what():", StringComparison.Ordinal)) ?? lines.LastOrDefault();
        string? cause = line is null ? null : lines.SkipWhile(text => text != line).Skip(1).LastOrDefault(IsCause);
        return $"the process ended with exit code {code}{(line is null ? "" : $": {line}")}{(cause is null ? "" : $" {cause}")}";
    }

    private static bool IsCause(string line)
    {
        string name = line.Split(": ", 2)[0];
        return name.Length < line.Length && name.All(char.IsLetter) && (name.EndsWith("Error", StringComparison.Ordinal) || name.EndsWith("Exception", StringComparison.Ordinal));
    }

    private static string Subject(string check, IEnumerable<string> files)
    {
        string OfFile(string path)
        {
            var file = (FileInfo)(File.ResolveLinkTarget(path, returnFinalTarget: true) ?? new FileInfo(path));
            return $"{path} {file.Length} {file.LastWriteTimeUtc.Ticks}";
        }

        var assembly = typeof(ChildCheck).Assembly;
        return string.Join('\n', [$"{check} {assembly.ManifestModule.ModuleVersionId}", $"processor {Processor()}", .. files.Select(OfFile)]);
    }

    // Several machines may share a home folder, and results depend on the kernels that libtorch selects for the
    // processor.
    private static string Processor()
    {
        if (!X86Base.IsSupported)
            return RuntimeInformation.ProcessArchitecture.ToString();
        var (model, _, _, _) = X86Base.CpuId(1, 0);
        var (_, some, more, most) = X86Base.CpuId(7, 0);
        return $"{model:x} {some:x} {more:x} {most:x}";
    }

    private static string? Remembered(string memory)
    {
        try
        {
            return File.Exists(memory) ? File.ReadAllText(memory) : null;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // Unreadable files are checked again.
            return null;
        }
    }

    private static void Remember(string memory, string subject)
    {
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(memory)!);
            string draft = $"{memory}.{Path.GetRandomFileName()}";
            File.WriteAllText(draft, subject);
            File.Move(draft, memory, overwrite: true);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // Without a writable cache every start checks again.
        }
    }
}
