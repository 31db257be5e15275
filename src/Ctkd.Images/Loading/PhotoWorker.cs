namespace Ctkd.Images;

/// <summary>What one thread needs to fill rows. Its buffers are used again.</summary>
internal sealed class PhotoWorker(IPhotoSource source, KeptImages kept, int height, int width) : IDisposable
{
    // Larger buffers are given back after the image.
    private const int mostBuffer = 32 << 20;

    private readonly Decoder _decoder = new();
    private readonly Resampler _resampler = new();
    private byte[] _file = [];
    private byte[] _rgba = [];

    /// <summary>Decodes an image, and writes what the chooser takes of it.</summary>
    /// <exception cref="PhotoException">It cannot be read or decoded.</exception>
    public void Fill(int image, int position, CutChooser cut, Span<byte> row)
    {
        if (kept.Find(image) is { } ready)
        {
            Write(ready.Pixels, 3, position, cut, ready.Height, ready.Width, row);
            return;
        }

        int length = source.Read(image, ref _file);
        _decoder.Decode(_file.AsSpan(0, length), ref _rgba, out int rows, out int columns);
        kept.Offer(image, _rgba, rows, columns);
        Write(_rgba, 4, position, cut, rows, columns, row);
        Release(ref _file);
        Release(ref _rgba);
    }

    private void Write(byte[] pixels, int channels, int position, CutChooser cut, int rows, int columns, Span<byte> row)
    {
        var chosen = cut(position, rows, columns);

        // The buffer may hold more than the image: the resampler knows only its length.
        if ((long)chosen.Top + chosen.Height > rows)
        {
            throw new ArgumentOutOfRangeException(nameof(cut), $"{chosen} is not within {rows} rows");
        }

        _resampler.Resize(pixels, channels, columns, chosen, row, height, width);
    }

    private static void Release(ref byte[] buffer)
    {
        if (buffer.Length > mostBuffer)
        {
            buffer = [];
        }
    }

    public void Dispose() => _decoder.Dispose();
}
