using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Ctkd.Images;

/// <summary>
/// Resizes pictures as PIL does with <c>Image.BILINEAR</c>, byte for byte: triangle filters that grow with the reduction
/// (antialiased), first along rows, rounded to 8 bits, then along columns, both in fixed point of 22 bits. An instance keeps
/// its buffers between pictures: one for each thread.
/// </summary>
public sealed unsafe class Resampler
{
    private const int Bits = 22;
    private const int Half = 1 << (Bits - 1);
    private const int Channels = 4;

    // Pixels of a row that are weighed at once, and the most bytes that are loaded for them.
    private const int Group = 4;
    private const int GroupBytes = 16;

    // More is given back after the picture: 64 MiB.
    private const int MostKept = 1 << 26;

    private readonly Axis _columns = new();
    private readonly Axis _rows = new();
    private byte[] _between = [];
    private byte[] _lastRow = [];
    private int[] _lanes = [];
    private int _spread;

    /// <summary>
    /// For each place of a window of the resized axis: the first place of the source, how many, and their weights.
    /// </summary>
    private sealed class Axis
    {
        public int[] First = [];
        public int[] Count = [];
        public int[] Weights = [];

        /// <summary>Weights that one place of the result has at most.</summary>
        public int Stride;

        /// <summary>Counts how often the weights were made anew.</summary>
        public int Version;

        private (int From, int To, int Start, int Length) _made;
        private double[] _shares = [];

        public void Make(int from, int to, int start, int length)
        {
            if (_made == (from, to, start, length))
            {
                return;
            }

            double scale = (double)from / to;
            double support = Math.Max(scale, 1.0);
            Stride = (int)Math.Ceiling(support) * 2 + 1;
            _made = default;
            Grow(ref First, length);
            Grow(ref Count, length);
            Grow(ref Weights, checked(length * Stride));
            Grow(ref _shares, Stride);

            for (int place = 0; place < length; place++)
            {
                double centre = (start + place + 0.5) * scale;
                int first = Math.Max(0, (int)(centre - support + 0.5));
                int last = Math.Min(from, (int)(centre + support + 0.5));
                double sum = 0.0;

                for (int i = first; i < last; i++)
                {
                    double share = Math.Max(0.0, 1.0 - Math.Abs((i - centre + 0.5) / support));
                    _shares[i - first] = share;
                    sum += share;
                }

                First[place] = first;
                Count[place] = last - first;

                for (int i = 0; i < last - first; i++)
                {
                    Weights[place * Stride + i] = (int)(0.5 + _shares[i] / sum * (1 << Bits));
                }
            }

            _made = (from, to, start, length);
            Version++;
        }
    }

    private static void Grow<T>(ref T[] buffer, int length)
    {
        if (buffer.Length < length)
        {
            buffer = new T[length];
        }
    }

    /// <summary>Resizes a box of a picture, takes a window of that, and mirrors it where asked.</summary>
    /// <param name="source">Pixels of the picture, row by row. The fourth byte of a pixel, if there is one, is ignored.</param>
    /// <param name="channels">
    /// Bytes of a pixel: 4, or 3 with one byte more after the last pixel.
    /// </param>
    /// <param name="sourceWidth">Pixels of a row of the picture.</param>
    /// <param name="cut">The box, its size after resizing, and the window.</param>
    /// <param name="target">The window as RGB, 3 bytes a pixel.</param>
    /// <param name="targetHeight">Rows of the window.</param>
    /// <param name="targetWidth">Columns of the window.</param>
    /// <exception cref="ArgumentException">The box is not in the picture, or the window not in the resized box.</exception>
    public void Resize(
        ReadOnlySpan<byte> source, int channels, int sourceWidth, in Cut cut, Span<byte> target, int targetHeight, int targetWidth)
    {
        Check(source.Length, channels, sourceWidth, cut, targetHeight, targetWidth);
        ArgumentOutOfRangeException.ThrowIfNotEqual(target.Length, checked(3 * targetHeight * targetWidth));

        _columns.Make(cut.Width, cut.ResizedWidth, cut.WindowLeft, targetWidth);
        _rows.Make(cut.Height, cut.ResizedHeight, cut.WindowTop, targetHeight);
        SpreadWeights(targetWidth);
        // Only these rows of the box count.
        int first = _rows.First[0];
        int height = _rows.First[targetHeight - 1] + _rows.Count[targetHeight - 1] - first;
        int rowLength = 3 * targetWidth;
        // Pixels are stored as four bytes, of which the next pixel overwrites the last: one more at the end.
        Grow(ref _between, checked(height * rowLength + 1));

        fixed (byte* from = source)
        fixed (byte* to = target)
        fixed (byte* between = _between)
        {
            for (int y = 0; y < height; y++)
            {
                long start = ((long)(cut.Top + first + y) * sourceWidth + cut.Left) * channels;
                byte* result = between + (long)y * rowLength;

                if (start + (long)cut.Width * channels + GroupBytes <= source.Length)
                {
                    AlongRow(from + start, channels, result, targetWidth, cut.Mirror);
                }
                else
                {
                    // A group could reach beyond the source.
                    int length = cut.Width * channels;
                    Grow(ref _lastRow, length + GroupBytes);
                    source.Slice((int)start, length).CopyTo(_lastRow);

                    fixed (byte* row = _lastRow)
                    {
                        AlongRow(row, channels, result, targetWidth, cut.Mirror);
                    }
                }
            }

            for (int y = 0; y < targetHeight; y++)
            {
                AlongColumns(between - (long)first * rowLength, rowLength, y, to + (long)y * rowLength);
            }
        }

        if (_between.Length > MostKept)
        {
            _between = [];
        }
    }

    private int LaneStride => (_columns.Stride + Group - 1) / Group * Group * Channels;

    /// <summary>
    /// The weights of the columns as <c>AlongRow</c> multiplies with them: each once for every channel of its pixel, and zeros
    /// up to a whole group.
    /// </summary>
    private void SpreadWeights(int targetWidth)
    {
        if (_spread == _columns.Version)
        {
            return;
        }

        int stride = LaneStride;
        Grow(ref _lanes, checked(targetWidth * stride));

        for (int x = 0; x < targetWidth; x++)
        {
            var lanes = _lanes.AsSpan(x * stride, stride);
            lanes.Clear();

            for (int k = 0; k < _columns.Count[x]; k++)
            {
                lanes.Slice(k * Channels, Channels).Fill(_columns.Weights[x * _columns.Stride + k]);
            }
        }

        _spread = _columns.Version;
    }

    private static void Check(int sourceLength, int channels, int sourceWidth, in Cut cut, int height, int width)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(cut.Height);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(cut.Width);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(height);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(width);
        ArgumentOutOfRangeException.ThrowIfNegative(cut.Top);
        ArgumentOutOfRangeException.ThrowIfNegative(cut.Left);
        ArgumentOutOfRangeException.ThrowIfNegative(cut.WindowTop);
        ArgumentOutOfRangeException.ThrowIfNegative(cut.WindowLeft);
        // Longer sides could overflow the sums.
        ArgumentOutOfRangeException.ThrowIfGreaterThan(cut.Height, Decoder.MostSide);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(cut.Width, Decoder.MostSide);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((long)cut.WindowTop + height, cut.ResizedHeight);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((long)cut.WindowLeft + width, cut.ResizedWidth);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((long)cut.Left + cut.Width, sourceWidth);
        ArgumentOutOfRangeException.ThrowIfNotEqual(channels is 3 or 4, true);
        // Four bytes are loaded of each pixel.
        ArgumentOutOfRangeException.ThrowIfGreaterThan(
            ((long)cut.Top + cut.Height) * sourceWidth * channels + 4 - channels, sourceLength);
    }

    /// <summary>Two pixels, a channel in each of eight lanes. The fourth of a pixel has no meaning.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> TwoPixels(byte* pixels, int channels)
    {
        if (channels == Channels)
        {
            return Eight(pixels);
        }

        Vector128<byte> bytes = Vector128.Shuffle(
            Vector128.CreateScalarUnsafe(*(ulong*)pixels).AsByte(),
            Vector128.Create((byte)0, 1, 2, 3, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0));

        return Widen(bytes);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Eight(byte* bytes) => Widen(Vector128.CreateScalarUnsafe(*(ulong*)bytes).AsByte());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Widen(Vector128<byte> bytes)
    {
        if (Avx2.IsSupported)
        {
            return Avx2.ConvertToVector256Int32(bytes);
        }

        Vector128<ushort> values = Vector128.WidenLower(bytes);
        return Vector256.Create(Vector128.WidenLower(values), Vector128.WidenUpper(values)).AsInt32();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint LowBytes(Vector128<int> values) =>
        Vector128.Shuffle(
            values.AsByte(), Vector128.Create((byte)0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)).AsUInt32().ToScalar();

    private void AlongRow(byte* row, int channels, byte* result, int targetWidth, bool mirror)
    {
        int stride = LaneStride;

        fixed (int* lanes = _lanes)
        fixed (int* firsts = _columns.First)
        fixed (int* counts = _columns.Count)
        {
            for (int x = 0; x < targetWidth; x++)
            {
                int place = mirror ? targetWidth - 1 - x : x;
                byte* pixel = row + (long)firsts[place] * channels;
                int* weight = lanes + (long)place * stride;
                Vector256<int> even = Vector256<int>.Zero;
                Vector256<int> odd = Vector256<int>.Zero;

                for (int k = counts[place]; k > 0; k -= Group)
                {
                    even += TwoPixels(pixel, channels) * Vector256.Load(weight);
                    odd += TwoPixels(pixel + 2 * channels, channels) * Vector256.Load(weight + 2 * Channels);
                    pixel += Group * channels;
                    weight += Group * Channels;
                }

                Vector256<int> both = even + odd;
                Vector128<int> sum = both.GetLower() + both.GetUpper() + Vector128.Create(Half);
                Vector128<int> value = Vector128.Min(sum >> Bits, Vector128.Create(255));
                *(uint*)(result + 3 * x) = LowBytes(value);
            }
        }
    }

    private void AlongColumns(byte* between, int rowLength, int y, byte* result)
    {
        int first = _rows.First[y];
        int count = _rows.Count[y];

        fixed (int* weights = &_rows.Weights[y * _rows.Stride])
        {
            int x = 0;

            for (; x + Vector256<int>.Count <= rowLength; x += Vector256<int>.Count)
            {
                Vector256<int> sum = Vector256.Create(Half);
                byte* value = between + (long)first * rowLength + x;

                for (int k = 0; k < count; k++, value += rowLength)
                {
                    sum += Eight(value) * Vector256.Create(weights[k]);
                }

                Vector256<uint> values = Vector256.Min(sum >> Bits, Vector256.Create(255)).AsUInt32();
                Vector128<ushort> shorter = Vector128.Narrow(values.GetLower(), values.GetUpper());
                *(ulong*)(result + x) = Vector128.Narrow(shorter, shorter).AsUInt64().ToScalar();
            }

            for (; x < rowLength; x++)
            {
                int sum = Half;

                for (int k = 0; k < count; k++)
                {
                    sum += between[(long)(first + k) * rowLength + x] * weights[k];
                }

                result[x] = (byte)Math.Min(sum >> Bits, 255);
            }
        }
    }
}
