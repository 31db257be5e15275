using System.Buffers.Binary;

namespace Ctkd.Images;

/// <summary>What a JPEG file says of its frame, up to its first scan.</summary>
internal readonly record struct JpegFrame(int Height, int Width, bool IsPlain)
{
    // Skia refuses more: what every machine decodes must not depend on the library.
    private const int mostScans = 90;

    /// <summary>Reads the markers before the first scan. False where they are not those of a whole JPEG header.</summary>
    public static bool TryRead(ReadOnlySpan<byte> file, out JpegFrame frame)
    {
        const byte baseline = 0xC0, progressive = 0xC2, arithmetic = 0xCC, huffmanTables = 0xC4, extension = 0xC8;
        const byte startOfScan = 0xDA;
        frame = default;
        bool found = false;

        if (PhotoFormats.Of(file) != PhotoFormat.Jpeg)
        {
            return false;
        }

        for (int at = 2; at + 4 <= file.Length;)
        {
            if (file[at] != 0xFF)
            {
                return false;
            }

            byte marker = file[at + 1];

            if (marker == 0xFF)
            {
                // Fill byte.
                at++;
                continue;
            }

            int length = BinaryPrimitives.ReadUInt16BigEndian(file[(at + 2)..]);

            // Neither a stuffed zero nor a marker without a length has a place here.
            if (marker is < 0xC0 or (>= 0xD0 and <= 0xD9) || length < 2 || at + 2 + length > file.Length)
            {
                return false;
            }

            if (marker == startOfScan)
            {
                return found;
            }

            if (marker is >= 0xC0 and <= 0xCF and not (huffmanTables or extension or arithmetic))
            {
                // precision, height, width, components, and three bytes a component
                if (found || length < 8)
                {
                    return false;
                }

                var body = file.Slice(at + 4, length - 2);
                bool plain = marker is >= baseline and <= progressive && body[0] == 8 && body[5] is 1 or 3;

                frame = new JpegFrame(
                    BinaryPrimitives.ReadUInt16BigEndian(body[1..]),
                    BinaryPrimitives.ReadUInt16BigEndian(body[3..]),
                    plain && (marker != progressive || Scans(file) <= mostScans));
                found = true;
            }

            at += 2 + length;
        }

        return false;
    }

    private static int Scans(ReadOnlySpan<byte> file) => file.Count((ReadOnlySpan<byte>)[0xFF, 0xDA]);
}
