using System.Runtime.Intrinsics;

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

    // More is given back after the picture: 64 MiB.
    private const int MostKept = 1 << 24;

    private readonly Axis _columns = new();
    private readonly Axis _rows = new();
    private int[] _between = [];

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
        // Only these rows of the box count.
        int first = _rows.First[0];
        int height = _rows.First[targetHeight - 1] + _rows.Count[targetHeight - 1] - first;
        int rowLength = Channels * targetWidth;
        // One row more: the last one of the result is summed there.
        Grow(ref _between, checked((height + 1) * rowLength));

        fixed (byte* from = source)
        fixed (byte* to = target)
        fixed (int* between = _between)
        {
            for (int y = 0; y < height; y++)
            {
                byte* row = from + ((long)(cut.Top + first + y) * sourceWidth + cut.Left) * channels;
                AlongRow(row, channels, between + (long)y * rowLength, targetWidth);
            }

            int* sum = between + (long)height * rowLength;

            for (int y = 0; y < targetHeight; y++)
            {
                AlongColumns(between - (long)first * rowLength, rowLength, y, sum);
                Store(sum, to + (long)y * targetWidth * 3, targetWidth, cut.Mirror);
            }
        }

        if (_between.Length > MostKept)
        {
            _between = [];
        }
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

    private void AlongRow(byte* row, int channels, int* result, int targetWidth)
    {
        fixed (int* weights = _columns.Weights)
        {
            for (int x = 0; x < targetWidth; x++)
            {
                Vector128<int> sum = Vector128.Create(Half);
                byte* pixel = row + (long)_columns.First[x] * channels;
                int* weight = weights + (long)x * _columns.Stride;

                for (int k = _columns.Count[x]; k > 0; k--)
                {
                    Vector128<byte> bytes = Vector128.CreateScalarUnsafe(*(uint*)pixel).AsByte();
                    Vector128<int> values = Vector128.WidenLower(Vector128.WidenLower(bytes)).AsInt32();
                    sum += values * Vector128.Create(*weight);
                    pixel += channels;
                    weight++;
                }

                Vector128.Min(sum >> Bits, Vector128.Create(255)).Store(result + x * Channels);
            }
        }
    }

    private void AlongColumns(int* between, int rowLength, int y, int* result)
    {
        int first = _rows.First[y];
        int count = _rows.Count[y];

        fixed (int* weights = &_rows.Weights[y * _rows.Stride])
        {
            int x = 0;

            for (; x + Vector256<int>.Count <= rowLength; x += Vector256<int>.Count)
            {
                Vector256<int> sum = Vector256.Create(Half);
                int* value = between + (long)first * rowLength + x;

                for (int k = 0; k < count; k++, value += rowLength)
                {
                    sum += Vector256.Load(value) * Vector256.Create(weights[k]);
                }

                Vector256.Min(sum >> Bits, Vector256.Create(255)).Store(result + x);
            }

            for (; x < rowLength; x++)
            {
                int sum = Half;

                for (int k = 0; k < count; k++)
                {
                    sum += between[(long)(first + k) * rowLength + x] * weights[k];
                }

                result[x] = Math.Min(sum >> Bits, 255);
            }
        }
    }

    private static void Store(int* row, byte* target, int width, bool mirror)
    {
        for (int x = 0; x < width; x++)
        {
            int* pixel = row + Channels * (mirror ? width - 1 - x : x);
            target[3 * x] = (byte)pixel[0];
            target[3 * x + 1] = (byte)pixel[1];
            target[3 * x + 2] = (byte)pixel[2];
        }
    }
}
