using System.Buffers.Binary;

namespace Ctkd.Images;

/// <summary>What the markers of a JPEG file say.</summary>
/// <param name="Height">Rows.</param>
/// <param name="Width">Columns.</param>
/// <param name="IsPlain">Whether every libjpeg decodes such a file: Huffman coded, 8 bits, grey or of three colours.</param>
/// <param name="IsComplete">Whether the file reaches its end marker.</param>
internal readonly record struct JpegFrame(int Height, int Width, bool IsPlain, bool IsComplete)
{
    // Skia refuses more: what every machine decodes must not depend on the library.
    private const int mostScans = 90;

    private const byte start = 0xD8, end = 0xD9, scan = 0xDA;

    /// <summary>
    /// Walks over the markers as libjpeg does: what is between two of them is skipped. Decoders fill up what a truncated file
    /// lacks, some without a word, so that this alone tells.
    /// </summary>
    public static JpegFrame Read(ReadOnlySpan<byte> file)
    {
        var frame = default(JpegFrame);
        int frames = 0, scans = 0;
        bool plain = false;

        for (int at = 2; (at = NextMarker(file, at)) >= 0;)
        {
            byte marker = file[at - 1];

            if (marker == end)
            {
                return frame with { IsPlain = plain && frames == 1 && scans <= mostScans, IsComplete = scans > 0 };
            }

            if (HasNoBody(marker))
            {
                // Another image's start is nothing that every decoder takes.
                plain &= marker != start;
                continue;
            }

            int length = at + 2 <= file.Length ? BinaryPrimitives.ReadUInt16BigEndian(file[at..]) : 0;

            if (length < 2 || at + length > file.Length)
            {
                break;
            }

            if (IsFrame(marker) && length >= 8 && scans == 0)
            {
                var body = file.Slice(at + 2, length - 2);
                frame = new JpegFrame(
                    BinaryPrimitives.ReadUInt16BigEndian(body[1..]), BinaryPrimitives.ReadUInt16BigEndian(body[3..]), false, false);
                plain = marker is >= 0xC0 and <= 0xC2 && body[0] == 8 && body[5] is 1 or 3;
                frames++;
            }

            scans += marker == scan ? 1 : 0;
            at += length;
        }

        return frame;
    }

    // C4, C8 and CC are tables and an extension.
    private static bool IsFrame(byte marker) => marker is >= 0xC0 and <= 0xCF and not (0xC4 or 0xC8 or 0xCC);

    private static bool HasNoBody(byte marker) => marker is 0x01 or (>= 0xD0 and <= start);

    /// <summary>The place after the next marker, or -1 where there is none.</summary>
    private static int NextMarker(ReadOnlySpan<byte> file, int at)
    {
        while (at < file.Length)
        {
            int found = file[at..].IndexOf((byte)0xFF);

            if (found < 0)
            {
                return -1;
            }

            at += found + 1;
            int fill = at < file.Length ? file[at..].IndexOfAnyExcept((byte)0xFF) : -1;

            if (fill < 0)
            {
                return -1;
            }

            at += fill + 1;

            // A zero after FF is part of the coded data.
            if (file[at - 1] != 0)
            {
                return at;
            }
        }

        return -1;
    }
}
