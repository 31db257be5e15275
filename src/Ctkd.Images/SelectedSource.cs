namespace Ctkd.Images;

/// <summary>Some photographs of a source, in an order of their own.</summary>
/// <param name="source">The source.</param>
/// <param name="images">Their numbers in it.</param>
public sealed class SelectedSource(IPhotoSource source, int[] images) : IPhotoSource, IDisposable
{
    /// <inheritdoc/>
    public int Count => images.Length;

    /// <inheritdoc/>
    public string Name(int image) => source.Name(images[image]);

    /// <inheritdoc/>
    public int Read(int image, ref byte[] buffer) => source.Read(images[image], ref buffer);

    /// <summary>Closes the source, where it is one that is closed: others may have selected from it, too.</summary>
    public void Dispose() => (source as IDisposable)?.Dispose();
}
