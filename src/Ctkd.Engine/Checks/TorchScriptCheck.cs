using System.Globalization;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using TorchSharp;
using static TorchSharp.torch;

namespace Ctkd.Engine;

/// <summary>
/// Loads a TorchScript file and runs it on black images, in a child process: libtorch's errors about a program's code are C++
/// exceptions that TorchSharp does not translate, and end the process.
/// </summary>
public static class TorchScriptCheck
{
    /// <summary>Begins the problem of a file that libtorch does not read.</summary>
    public const string Unreadable = "libtorch cannot load it";

    // What the child is told: hash, height and width, and the file.
    private const string file = "CTKD_CHECK_FILE";

    /// <summary>Why the file cannot be run on images of this size, or null. Remembered where it can.</summary>
    /// <param name="path">The file.</param>
    /// <param name="hash">SHA-256 of the bytes that are to be loaded, in lower case.</param>
    /// <param name="height">Height of the images.</param>
    /// <param name="width">Their width.</param>
    public static string? Problem(string path, string hash, int height, int width)
    {
        string told = string.Create(CultureInfo.InvariantCulture, $"{hash} {height} {width}");
        return ChildCheck.Run("torchscript", Natives.Files, told, (file, $"{told} {Path.GetFullPath(path)}")).Fault;
    }

    internal static string? Run()
    {
        string[] told = (Environment.GetEnvironmentVariable(file) ?? "").Split(' ', 4);
        if (told.Length != 4)
            return "no file was named";
        Natives.Load();
        byte[] bytes = File.ReadAllBytes(told[3]);
        if (Convert.ToHexStringLower(SHA256.HashData(bytes)) != told[0])
            return "the file has changed meanwhile";
        using var scope = NewDisposeScope();
        using var quiet = no_grad();
        using var network = Load(bytes, out string? problem);
        if (network is null)
            return problem;
        try
        {
            network.eval();
            network.forward(zeros(2, 3, int.Parse(told[1], CultureInfo.InvariantCulture), int.Parse(told[2], CultureInfo.InvariantCulture)));
        }
        catch (ArgumentOutOfRangeException)
        {
            // TorchSharp hands on tensors, lists and tuples.
            return "it returns neither a tensor nor a tuple of tensors: return logits, or (logits, maps ..., pooled)";
        }

        return null;
    }

    private static jit.ScriptModule? Load(byte[] bytes, out string? problem)
    {
        try
        {
            problem = null;
            return jit.load(bytes, "cpu");
        }
        catch (Exception error) when (error is ExternalException or InvalidOperationException)
        {
            problem = $"{Unreadable}: {error.Message}";
            return null;
        }
    }
}
