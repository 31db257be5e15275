using SkiaSharp;

namespace Ctkd.Images;

/// <summary>Decodes with SkiaSharp: every format.</summary>
internal static unsafe class SkiaDecoder
{
    public static PhotoHeader ReadHeader(ReadOnlySpan<byte> file)
    {
        fixed (byte* bytes = file)
        {
            using var data = Data(file, bytes, out var format);
            using var codec = Open(data);
            return new PhotoHeader(format, codec.Info.Width, codec.Info.Height, (int)codec.EncodedOrigin);
        }
    }

    public static void Decode(ReadOnlySpan<byte> file, ref byte[] rgba, out int height, out int width)
    {
        fixed (byte* bytes = file)
        {
            using var data = Data(file, bytes, out _);
            using var codec = Open(data);
            height = codec.Info.Height;
            width = codec.Info.Width;
            Decoder.Reserve(ref rgba, height, width);
            // Without a colour space: no conversion.
            var wanted = new SKImageInfo(width, height, SKColorType.Rgba8888, SKAlphaType.Unpremul, null);
            SKCodecResult result;

            fixed (byte* pixels = rgba)
            {
                result = codec.GetPixels(wanted, (nint)pixels);
            }

            if (result != SKCodecResult.Success)
            {
                throw new PhotoException(Reason(result));
            }
        }
    }

    private static SKData Data(ReadOnlySpan<byte> file, byte* bytes, out PhotoFormat format)
    {
        format = PhotoFormats.Of(file);

        return format == PhotoFormat.Other
            ? throw new PhotoException(PhotoFormats.WhyNot(file[..Math.Min(file.Length, PhotoFormats.Enough)]))
            : SKData.Create((nint)bytes, file.Length);
    }

    private static SKCodec Open(SKData data)
    {
        var codec = SKCodec.Create(data) ?? throw new PhotoException("it is damaged, or truncated in its header");

        try
        {
            Decoder.CheckSize(codec.Info.Height, codec.Info.Width);
            return codec;
        }
        catch
        {
            codec.Dispose();
            throw;
        }
    }

    private static string Reason(SKCodecResult result) => result switch
    {
        SKCodecResult.IncompleteInput => "it is truncated",
        SKCodecResult.ErrorInInput => "it is damaged",
        _ => $"it cannot be decoded ({result})",
    };
}
