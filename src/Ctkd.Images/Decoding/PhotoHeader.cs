namespace Ctkd.Images;

/// <summary>The formats that are decoded, by the first bytes of a file.</summary>
public enum PhotoFormat
{
    /// <summary>None of those below.</summary>
    Other,

    /// <summary>JPEG, baseline or progressive.</summary>
    Jpeg,

    /// <summary>PNG.</summary>
    Png,

    /// <summary>WebP.</summary>
    WebP,

    /// <summary>Windows bitmap.</summary>
    Bmp,

    /// <summary>GIF, of which the first frame is taken.</summary>
    Gif,
}

/// <summary>What the header of a photograph says.</summary>
/// <param name="Format">The format, by content.</param>
/// <param name="Width">Columns as stored.</param>
/// <param name="Height">Rows as stored.</param>
/// <param name="Orientation">EXIF's orientation, 1 to 8; 1, upright, where there is none. Decoding ignores it.</param>
public readonly record struct PhotoHeader(PhotoFormat Format, int Width, int Height, int Orientation);

/// <summary>Tells formats apart by the first bytes.</summary>
public static class PhotoFormats
{
    /// <summary>Bytes that are enough to tell.</summary>
    public const int Enough = 16;

    private static ReadOnlySpan<byte> jpeg => [0xFF, 0xD8, 0xFF];

    private static ReadOnlySpan<byte> png => [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A];

    /// <summary>The format of a file that begins with these bytes.</summary>
    public static PhotoFormat Of(ReadOnlySpan<byte> start) =>
        start.StartsWith(jpeg) ? PhotoFormat.Jpeg
        : start.StartsWith(png) ? PhotoFormat.Png
        : start.StartsWith("GIF87a"u8) || start.StartsWith("GIF89a"u8) ? PhotoFormat.Gif
        : start.Length >= 12 && start.StartsWith("RIFF"u8) && start[8..].StartsWith("WEBP"u8) ? PhotoFormat.WebP
        : IsBitmap(start) ? PhotoFormat.Bmp
        : PhotoFormat.Other;

    // "BM" alone begins many a text: the four reserved bytes are zero.
    private static bool IsBitmap(ReadOnlySpan<byte> start) =>
        start.Length >= 14 && start.StartsWith("BM"u8) && start[6..10].IndexOfAnyExcept((byte)0) < 0;

    /// <summary>Why a file of another format is not decoded.</summary>
    internal static string WhyNot(ReadOnlySpan<byte> start) =>
        start.IsEmpty ? "it is empty"
        : start.StartsWith("II*\0"u8) || start.StartsWith("MM\0*"u8) ? "it is a TIFF or raw image, which is not read"
        : start.Length >= 12 && start[4..].StartsWith("ftyp"u8) ? "it is HEIC, AVIF or a film, which is not read"
        : start.IndexOfAnyExcept((byte)0) < 0 ? "it holds zeros instead of an image"
        : start.TrimStart(" \r\n\t"u8).StartsWith("<"u8) ? "it is HTML or XML, and no image"
        : start[0] == 0xFF && start.Length < 3 ? "it is truncated"
        : "it is no JPEG, PNG, WebP, BMP or GIF image";
}
