namespace Ctkd.Engine;

/// <summary>Which native libraries this process uses, and from where.</summary>
/// <param name="Version">libtorch's version.</param>
/// <param name="Folder">Where libtorch lies.</param>
/// <param name="IsOwn">Whether LIBTORCH names it; else it is the package's.</param>
/// <param name="HasCuda">Whether it has CUDA's part.</param>
/// <param name="Sharp">The copy of TorchSharp's native library that is used.</param>
/// <param name="IsRelaxed">Whether that is a copy made for this system's older libstdc++.</param>
/// <param name="Check">What the self-check of results said, of a libtorch that LIBTORCH names.</param>
/// <param name="OneDnn">What had to be done so that oneDNN computes rightly on this machine; it may be off.</param>
public sealed record EngineFacts(
    string Version, string Folder, bool IsOwn, bool HasCuda, string Sharp, bool IsRelaxed, string? Check, string? OneDnn)
{
    /// <summary>Whether oneDNN computes the convolutions of the CPU.</summary>
    public bool UsesOneDnn => OneDnn != ProcessorCaches.Off;
}
