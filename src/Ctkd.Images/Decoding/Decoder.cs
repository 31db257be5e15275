namespace Ctkd.Images;

/// <summary>Which library decodes JPEG files. Both give the same bytes.</summary>
public enum JpegLibrary
{
    /// <summary>libjpeg-turbo where it is installed, for the files that it takes; SkiaSharp else.</summary>
    Fastest,

    /// <summary>SkiaSharp.</summary>
    Skia,

    /// <summary>libjpeg-turbo, or an error where it is not installed; SkiaSharp for the files that it does not take.</summary>
    Turbo,
}

/// <summary>
/// Decodes photographs as PIL's <c>convert("RGB")</c> does: colours as they are stored (no colour profile), transparency
/// dropped, EXIF's orientation ignored, 16 bits cut to 8, CMYK converted. An instance belongs to one thread.
/// </summary>
public sealed unsafe class Decoder : IDisposable
{
    /// <summary>The most pixels of an image: more are refused by the header, before memory is taken.</summary>
    public const int MostPixels = 100_000_000;

    /// <summary>The most pixels of a side.</summary>
    public const int MostSide = 65_535;

    /// <summary>The environment variable that chooses the library for JPEG: <c>skia</c> or <c>turbo</c>.</summary>
    public const string Variable = "CTKD_JPEG";

    private readonly TurboJpeg? _turbo;

    /// <summary>Makes a decoder with the library that CTKD_JPEG names, or the fastest.</summary>
    public Decoder() : this(Chosen())
    {
    }

    /// <summary>Makes a decoder with a library for JPEG.</summary>
    /// <exception cref="DllNotFoundException">libjpeg-turbo is asked for and not installed.</exception>
    public Decoder(JpegLibrary library)
    {
        if (library == JpegLibrary.Turbo && !TurboJpeg.IsThere)
        {
            throw new DllNotFoundException($"{TurboJpeg.FileName} is not installed: install libjpeg-turbo, or unset {Variable}");
        }

        _turbo = library != JpegLibrary.Skia && TurboJpeg.IsThere ? new TurboJpeg() : null;
    }

    /// <summary>Whether libjpeg-turbo is installed.</summary>
    public static bool HasTurbo => TurboJpeg.IsThere;

    private static JpegLibrary Chosen() => Environment.GetEnvironmentVariable(Variable) switch
    {
        null or "" => JpegLibrary.Fastest,
        "skia" => JpegLibrary.Skia,
        "turbo" => JpegLibrary.Turbo,
        var other => throw new ArgumentException($"{Variable} is '{other}': it takes skia or turbo"),
    };

    /// <summary>Reads the header of a file, and decodes nothing.</summary>
    /// <exception cref="PhotoException">It is no image, or too large a one.</exception>
    public static PhotoHeader ReadHeader(ReadOnlySpan<byte> file)
    {
        Checked(file);
        return SkiaDecoder.ReadHeader(file);
    }

    /// <summary>The frame of a JPEG file, whose size is allowed and which is complete; nothing of another file.</summary>
    private static JpegFrame Checked(ReadOnlySpan<byte> file)
    {
        if (PhotoFormats.Of(file) != PhotoFormat.Jpeg)
        {
            return default;
        }

        var frame = JpegFrame.Read(file);

        if (frame.Height > 0 && frame.Width > 0)
        {
            CheckSize(frame.Height, frame.Width);
        }

        return frame.IsComplete ? frame : throw new PhotoException("it is truncated");
    }

    /// <summary>Decodes a file.</summary>
    /// <param name="file">All bytes of the file.</param>
    /// <param name="rgba">Pixels, 4 bytes each, row by row; grows where it is too small. The fourth byte has no meaning.</param>
    /// <param name="height">Rows.</param>
    /// <param name="width">Columns.</param>
    /// <exception cref="PhotoException">It cannot be decoded: no image, truncated, damaged, or too large.</exception>
    public void Decode(ReadOnlySpan<byte> file, ref byte[] rgba, out int height, out int width)
    {
        var frame = Checked(file);

        // What libjpeg-turbo complains of, however slightly, is for Skia to accept or to refuse: so the outcome is the same
        // where libjpeg-turbo is not installed.
        if (!frame.IsPlain || _turbo is null || !_turbo.TryDecode(file, frame, ref rgba, out height, out width))
        {
            SkiaDecoder.Decode(file, ref rgba, out height, out width);
        }
    }

    /// <summary>Room for an image, after its size is checked.</summary>
    internal static void Reserve(ref byte[] rgba, int height, int width)
    {
        CheckSize(height, width);
        PhotoSources.Grow(ref rgba, 4 * height * width);
    }

    internal static void CheckSize(int height, int width)
    {
        if (height < 1 || width < 1)
        {
            throw new PhotoException($"it has {width} x {height} pixels");
        }

        if (Math.Max(height, width) > MostSide)
        {
            throw new PhotoException($"it has {width} x {height} pixels, and at most {MostSide} on a side are decoded");
        }

        if ((long)height * width > MostPixels)
        {
            throw new PhotoException($"it has {width} x {height} pixels, and at most {MostPixels} are decoded");
        }
    }

    /// <summary>Frees what the native library holds.</summary>
    public void Dispose() => _turbo?.Dispose();
}
