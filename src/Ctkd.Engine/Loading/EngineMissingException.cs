namespace Ctkd.Engine;

/// <summary>The tensor engine cannot be used: a native library is missing, damaged, foreign or computes wrongly.</summary>
/// <param name="what">What is wrong.</param>
/// <param name="where">The file or folder.</param>
/// <param name="next">How to fix it.</param>
public sealed class EngineMissingException(string what, string where, string next)
    : Exception($"{what}\n  where: {where}\n  next: {next}")
{
    /// <summary>What is wrong.</summary>
    public string What { get; } = what;

    /// <summary>The file or folder.</summary>
    public string Where { get; } = where;

    /// <summary>How to fix it.</summary>
    public string Next { get; } = next;
}
