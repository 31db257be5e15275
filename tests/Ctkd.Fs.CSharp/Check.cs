using System.Runtime.CompilerServices;

namespace Ctkd.Fs.CSharp;

/// <summary>What must be so, in plain C#: the message is the condition's own text.</summary>
internal static class Check
{
    public static void That(bool condition, [CallerArgumentExpression(nameof(condition))] string text = "")
    {
        if (!condition) throw new InvalidOperationException($"not so: {text}");
    }

    public static void Equal<T>(
        IEnumerable<T> expected, IEnumerable<T> actual, [CallerArgumentExpression(nameof(actual))] string text = "")
    {
        var found = actual.ToList();
        if (!expected.SequenceEqual(found))
            throw new InvalidOperationException($"{text} is [{string.Join(", ", found)}]");
    }

    /// <summary>The error of what must fail with one.</summary>
    public static CtkdException Fails(Action action)
    {
        try
        {
            action();
        }
        catch (CtkdException error)
        {
            return error;
        }

        throw new InvalidOperationException("it did not fail");
    }

    /// <summary>Runs with a new folder, which is removed afterwards.</summary>
    public static void InFolder(Action<string> body)
    {
        var folder = Directory.CreateTempSubdirectory("ctkd-csharp-").FullName;
        try
        {
            body(folder);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
