namespace Ctkd.Images;

/// <summary>A decoded image: RGB, and one byte more, as <c>Resampler</c> needs it.</summary>
internal sealed record KeptImage(byte[] Pixels, int Height, int Width);

/// <summary>Decoded images, kept while there is room.</summary>
internal sealed class KeptImages(int count, long budget)
{
    private readonly KeptImage?[] _images = budget > 0 ? new KeptImage?[count] : [];
    private long _left = budget;

    public KeptImage? Find(int image) => image < _images.Length ? Volatile.Read(ref _images[image]) : null;

    /// <summary>Keeps a copy if there is room, and the image is not kept already.</summary>
    public void Offer(int image, ReadOnlySpan<byte> rgba, int height, int width)
    {
        long length = 3L * height * width + 1;

        if (image >= _images.Length || Find(image) is not null || !Take(length))
        {
            return;
        }

        var pixels = GC.AllocateUninitializedArray<byte>((int)length);

        for (int from = 0, to = 0; to + 3 < pixels.Length; from += 4, to += 3)
        {
            pixels[to] = rgba[from];
            pixels[to + 1] = rgba[from + 1];
            pixels[to + 2] = rgba[from + 2];
        }

        pixels[^1] = 0;

        if (Interlocked.CompareExchange(ref _images[image], new KeptImage(pixels, height, width), null) is not null)
        {
            // Another thread was faster.
            Interlocked.Add(ref _left, length);
        }
    }

    private bool Take(long length)
    {
        if (Interlocked.Add(ref _left, -length) >= 0)
        {
            return true;
        }

        Interlocked.Add(ref _left, length);
        return false;
    }
}
