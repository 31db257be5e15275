namespace Ctkd.Engine;

/// <summary>The native libraries that this process uses.</summary>
/// <param name="Version">libtorch's version.</param>
/// <param name="Folder">libtorch's folder.</param>
/// <param name="IsOwn">Whether LIBTORCH names it; otherwise it is the package's.</param>
/// <param name="HasCuda">Whether it includes CUDA.</param>
/// <param name="Sharp">The copy of TorchSharp's native library in use.</param>
/// <param name="IsRelaxed">Whether that copy was made for this system's older libstdc++.</param>
/// <param name="Check">The result of the self-check of a libtorch named by LIBTORCH.</param>
/// <param name="OneDnn">What was done to make oneDNN compute correctly on this machine; it may be off.</param>
public sealed record EngineFacts(
    string Version, string Folder, bool IsOwn, bool HasCuda, string Sharp, bool IsRelaxed, string? Check, string? OneDnn)
{
    /// <summary>Whether oneDNN computes convolutions on the CPU.</summary>
    public bool UsesOneDnn => OneDnn != ProcessorCaches.Off;
}
