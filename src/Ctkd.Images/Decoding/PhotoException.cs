namespace Ctkd.Images;

/// <summary>A photograph that cannot be read or decoded. The message is the reason alone: whoever knows the name adds it.</summary>
public sealed class PhotoException : Exception
{
    /// <summary>Makes the exception from the reason, such as "it is truncated".</summary>
    public PhotoException(string reason) : base(reason)
    {
    }

    /// <summary>Makes the exception from the reason and what caused it.</summary>
    public PhotoException(string reason, Exception inner) : base(reason, inner)
    {
    }
}
