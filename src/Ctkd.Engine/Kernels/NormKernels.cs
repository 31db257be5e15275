using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Lanes = System.Runtime.Intrinsics.Vector512;
using V = System.Runtime.Intrinsics.Vector512<float>;

namespace Ctkd.Engine;

/// <summary>
/// The loops of <see cref="FusedNorm"/> over a matrix [rows, channels] with channels innermost, in vectors of 16
/// channels and on libtorch's threads. The rows are divided into chunks by shape alone, and the chunks' sums are
/// combined in order: results do not depend on the number of threads.
/// </summary>
internal static unsafe class NormKernels
{
    /// <summary>The number of channels must be a multiple of it.</summary>
    public const int Width = 16;

    private const int Unroll = 8; // rows per load of a channel's constants
    private const int ChunkElements = 1 << 15; // 64 to 128 KiB: fits the second-level cache
    private const int LeastRows = 64; // per chunk, so that its sums are few compared with its elements

    /// <summary>A pass over the rows.</summary>
    public enum Pass
    {
        /// <summary>Sums of x - k and of its square per chunk, with k near the mean.</summary>
        Moments,

        /// <summary>y = (x - mean) scale + shift, then the mode's operations.</summary>
        Normalise,

        /// <summary>Sums of g and of g (x - mean) per chunk.</summary>
        Reduce,

        /// <summary>dx = g a + (x - mean) b + d.</summary>
        Differentiate,
    }

    /// <summary>The operations between the normalised value and the result.</summary>
    public enum Mode
    {
        /// <summary>None: g = dy.</summary>
        Plain,

        /// <summary>ReLU: g = dy where (x - mean) scale + shift is above 0.</summary>
        Relu,

        /// <summary>Sum with r: g = dy.</summary>
        Add,

        /// <summary>Sum with r, then ReLU: g = dy where y is above 0, stored in dr.</summary>
        AddRelu,
    }

    /// <summary>Inputs and outputs of a pass: matrices of one element type, and rows of float32 constants, one per channel.</summary>
    public struct Job
    {
        public Pass Pass;
        public Mode Mode;
        public bool BFloat16;
        public long Rows;
        public int Channels;
        public byte* X, R, Y, Dy, Dx, Dr;
        public float* Scale, Shift, Mean, A, B, D;
        public float* Sums; // per chunk: k, sum of x - k, sum of squares; or sum of g, sum of g (x - mean)

        /// <summary>Rows per chunk; the last may have fewer.</summary>
        public readonly long ChunkRows => Math.Max(ChunkElements / Channels / Unroll * Unroll, LeastRows);

        /// <summary>Number of chunks.</summary>
        public readonly int Chunks => (int)((Rows + ChunkRows - 1) / ChunkRows);

        /// <summary>Floats of <see cref="Sums"/> per chunk.</summary>
        public readonly int SumsStride => 3 * Channels;

        /// <summary>Returns the rows of one chunk.</summary>
        public readonly long RowsOf(int chunk) => Math.Min(ChunkRows, Rows - chunk * ChunkRows);
    }

    /// <summary>Whether this processor has the vectors and this libtorch the thread functions.</summary>
    public static bool Available { get; } =
        Lanes.IsHardwareAccelerated && NativeLibrary.TryLoad(Natives.Torch, typeof(NormKernels).Assembly, null, out openmp)
        && NativeLibrary.TryGetExport(openmp, "GOMP_parallel", out parallel)
        && NativeLibrary.TryGetExport(openmp, "omp_get_thread_num", out threadNumber)
        && NativeLibrary.TryGetExport(openmp, "omp_get_num_threads", out threadCount);

    private static nint openmp, parallel, threadNumber, threadCount;

    /// <summary>Runs a pass on up to <paramref name="threads"/> threads, fewer for little work.</summary>
    public static void Run(ref Job job, int threads)
    {
        threads = Math.Min(threads, job.Chunks);
        fixed (Job* at = &job)
        {
            if (threads <= 1)
                for (int chunk = 0; chunk < job.Chunks; chunk++)
                    RunChunk(at, chunk);
            else
                ((delegate* unmanaged<delegate* unmanaged<Job*, void>, Job*, uint, uint, void>)parallel)(&RunShare, at, (uint)threads, 0);
        }
    }

    // Runs on each thread of the team; must neither throw nor allocate.
    [UnmanagedCallersOnly]
    private static void RunShare(Job* job)
    {
        int thread = ((delegate* unmanaged[SuppressGCTransition]<int>)threadNumber)();
        int team = ((delegate* unmanaged[SuppressGCTransition]<int>)threadCount)();
        int stop = (int)((long)job->Chunks * (thread + 1) / team);
        for (int chunk = (int)((long)job->Chunks * thread / team); chunk < stop; chunk++)
            RunChunk(job, chunk);
    }

    private static void RunChunk(Job* job, int chunk)
    {
        if (job->BFloat16)
            RunChunk<BFloat16>(job, chunk);
        else
            RunChunk<Float32>(job, chunk);
    }

    private static void RunChunk<T>(Job* job, int chunk)
        where T : struct, IElement
    {
        switch (job->Pass, job->Mode)
        {
            case (Pass.Moments, _): Moments<T>(job, chunk); break;
            case (Pass.Normalise, Mode.Plain): Normalise<T, No, No>(job, chunk); break;
            case (Pass.Normalise, Mode.Relu): Normalise<T, No, Yes>(job, chunk); break;
            case (Pass.Normalise, Mode.Add): Normalise<T, Yes, No>(job, chunk); break;
            case (Pass.Normalise, Mode.AddRelu): Normalise<T, Yes, Yes>(job, chunk); break;
            case (Pass.Reduce, Mode.Relu): Reduce<T, No, Yes>(job, chunk); break;
            case (Pass.Reduce, Mode.AddRelu): Reduce<T, Yes, Yes>(job, chunk); break;
            case (Pass.Reduce, _): Reduce<T, No, No>(job, chunk); break;
            case (Pass.Differentiate, Mode.Relu): Differentiate<T, Yes>(job, chunk); break;
            case (Pass.Differentiate, _): Differentiate<T, No>(job, chunk); break;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Moments<T>(Job* job, int chunk)
        where T : struct, IElement
    {
        int channels = job->Channels;
        long rows = job->RowsOf(chunk), step = (long)channels * T.Size;
        byte* x = job->X + chunk * job->ChunkRows * step;
        float* k = job->Sums + (long)chunk * job->SumsStride, sum = k + channels, square = sum + channels;
        // k is the mean of the first rows: otherwise the squares of a mean far from 0 would swallow the variance
        long first = Math.Min(rows, Unroll);
        for (int c = 0; c < channels; c += Width)
        {
            var total = V.Zero;
            for (long row = 0; row < first; row++)
                total += T.Load(x + row * step + c * T.Size);
            // an infinity must reach the sum unchanged: minus itself it would become a NaN
            (total / first & Lanes.LessThan(Lanes.Abs(total), Lanes.Create(float.PositiveInfinity))).Store(k + c);
            V.Zero.Store(sum + c);
            V.Zero.Store(square + c);
        }
        long at = 0;
        for (; at + Unroll <= rows; at += Unroll)
        {
            byte* p = x + at * step;
            for (int c = 0; c < channels; c += Width, p += Width * T.Size)
            {
                V near = Lanes.Load(k + c);
                byte* q = p + 4 * step;
                V d0 = T.Load(p) - near, d1 = T.Load(p + step) - near, d2 = T.Load(p + 2 * step) - near, d3 = T.Load(p + 3 * step) - near;
                V d4 = T.Load(q) - near, d5 = T.Load(q + step) - near, d6 = T.Load(q + 2 * step) - near, d7 = T.Load(q + 3 * step) - near;
                (Lanes.Load(sum + c) + (((d0 + d1) + (d2 + d3)) + ((d4 + d5) + (d6 + d7)))).Store(sum + c);
                V s0 = Lanes.FusedMultiplyAdd(d3, d3, Lanes.FusedMultiplyAdd(d2, d2, Lanes.FusedMultiplyAdd(d1, d1, d0 * d0)));
                V s1 = Lanes.FusedMultiplyAdd(d7, d7, Lanes.FusedMultiplyAdd(d6, d6, Lanes.FusedMultiplyAdd(d5, d5, d4 * d4)));
                (Lanes.Load(square + c) + (s0 + s1)).Store(square + c);
            }
        }
        for (; at < rows; at++)
            for (int c = 0; c < channels; c += Width)
            {
                V d = T.Load(x + at * step + c * T.Size) - Lanes.Load(k + c);
                (Lanes.Load(sum + c) + d).Store(sum + c);
                Lanes.FusedMultiplyAdd(d, d, Lanes.Load(square + c)).Store(square + c);
            }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Normalise<T, TAdd, TRelu>(Job* job, int chunk)
        where T : struct, IElement
        where TAdd : struct, IFlag
        where TRelu : struct, IFlag
    {
        int channels = job->Channels;
        long rows = job->RowsOf(chunk), step = (long)channels * T.Size, start = chunk * job->ChunkRows * step;
        byte* x = job->X + start, y = job->Y + start, r = TAdd.On ? job->R + start : null;
        float* mean = job->Mean, scale = job->Scale, shift = job->Shift;
        long at = 0;
        for (; at + Unroll <= rows; at += Unroll)
            for (int c = 0; c < channels; c += Width)
            {
                V m = Lanes.Load(mean + c), w = Lanes.Load(scale + c), b = Lanes.Load(shift + c);
                long i = at * step + c * T.Size;
                for (int row = 0; row < Unroll; row++, i += step)
                    T.Store(y + i, Result<T, TAdd, TRelu>(x + i, r + i, m, w, b));
            }
        for (; at < rows; at++)
            for (int c = 0; c < channels; c += Width)
            {
                long i = at * step + c * T.Size;
                T.Store(y + i, Result<T, TAdd, TRelu>(x + i, r + i, Lanes.Load(mean + c), Lanes.Load(scale + c), Lanes.Load(shift + c)));
            }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static V Result<T, TAdd, TRelu>(byte* x, byte* r, V mean, V scale, V shift)
        where T : struct, IElement
        where TAdd : struct, IFlag
        where TRelu : struct, IFlag
    {
        V y = Lanes.FusedMultiplyAdd(T.Load(x) - mean, scale, shift);
        if (TAdd.On)
            y += T.Load(r);
        // a NaN is not below 0, so it stays
        return TRelu.On ? Lanes.AndNot(y, Lanes.LessThan(y, V.Zero)) : y;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Reduce<T, TAdd, TRelu>(Job* job, int chunk)
        where T : struct, IElement
        where TAdd : struct, IFlag
        where TRelu : struct, IFlag
    {
        int channels = job->Channels;
        long rows = job->RowsOf(chunk), step = (long)channels * T.Size, start = chunk * job->ChunkRows * step;
        byte* x = job->X + start, dy = job->Dy + start, y = TAdd.On ? job->Y + start : null, dr = TAdd.On ? job->Dr + start : null;
        float* sum = job->Sums + (long)chunk * job->SumsStride, product = sum + channels;
        new Span<float>(sum, 2 * channels).Clear();
        for (long at = 0; at < rows; at += Unroll)
        {
            long count = Math.Min(Unroll, rows - at);
            for (int c = 0; c < channels; c += Width)
            {
                V mean = Lanes.Load(job->Mean + c), w = default, b = default;
                if (TRelu.On && !TAdd.On)
                    (w, b) = (Lanes.Load(job->Scale + c), Lanes.Load(job->Shift + c));
                V s = V.Zero, q = V.Zero;
                long i = at * step + c * T.Size;
                for (long row = 0; row < count; row++, i += step)
                {
                    V away = T.Load(x + i) - mean, g = T.Load(dy + i);
                    if (TAdd.On)
                    {
                        g = Lanes.AndNot(g, Lanes.LessThanOrEqual(T.Load(y + i), V.Zero));
                        T.Store(dr + i, g);
                    }
                    else if (TRelu.On)
                        g = Lanes.AndNot(g, Lanes.LessThanOrEqual(Lanes.FusedMultiplyAdd(away, w, b), V.Zero));
                    s += g;
                    q = Lanes.FusedMultiplyAdd(g, away, q);
                }
                (Lanes.Load(sum + c) + s).Store(sum + c);
                (Lanes.Load(product + c) + q).Store(product + c);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Differentiate<T, TRelu>(Job* job, int chunk)
        where T : struct, IElement
        where TRelu : struct, IFlag
    {
        int channels = job->Channels;
        long rows = job->RowsOf(chunk), step = (long)channels * T.Size, start = chunk * job->ChunkRows * step;
        byte* x = job->X + start, dx = job->Dx + start, dy = (job->Mode == Mode.AddRelu ? job->Dr : job->Dy) + start;
        for (long at = 0; at < rows; at += Unroll)
        {
            long count = Math.Min(Unroll, rows - at);
            for (int c = 0; c < channels; c += Width)
            {
                V mean = Lanes.Load(job->Mean + c), a = Lanes.Load(job->A + c), b = Lanes.Load(job->B + c), d = Lanes.Load(job->D + c);
                V w = default, h = default;
                if (TRelu.On)
                    (w, h) = (Lanes.Load(job->Scale + c), Lanes.Load(job->Shift + c));
                long i = at * step + c * T.Size;
                for (long row = 0; row < count; row++, i += step)
                {
                    V away = T.Load(x + i) - mean, g = T.Load(dy + i);
                    if (TRelu.On)
                        g = Lanes.AndNot(g, Lanes.LessThanOrEqual(Lanes.FusedMultiplyAdd(away, w, h), V.Zero));
                    T.Store(dx + i, Lanes.FusedMultiplyAdd(g, a, Lanes.FusedMultiplyAdd(away, b, d)));
                }
            }
        }
    }

    private interface IFlag
    {
        static abstract bool On { get; }
    }

    private struct Yes : IFlag
    {
        public static bool On => true;
    }

    private struct No : IFlag
    {
        public static bool On => false;
    }

    /// <summary>An element type, loaded to and stored from float32.</summary>
    private interface IElement
    {
        static abstract int Size { get; }

        static abstract V Load(byte* at);

        static abstract void Store(byte* at, V value);
    }

    private struct Float32 : IElement
    {
        public static int Size => sizeof(float);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static V Load(byte* at) => Lanes.Load((float*)at);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Store(byte* at, V value) => value.Store((float*)at);
    }

    private struct BFloat16 : IElement
    {
        public static int Size => sizeof(ushort);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static V Load(byte* at) => (Lanes.WidenLower(Vector256.Load((ushort*)at).ToVector512Unsafe()) << 16).AsSingle();

        // Rounds to nearest, halves to even. A NaN becomes libtorch's NaN, since rounding could turn it into an
        // infinity.
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Store(byte* at, V value)
        {
            var bits = value.AsUInt32();
            var rounded = bits + Lanes.Create(0x7fffu) + ((bits >>> 16) & Lanes.Create(1u)) >>> 16;
            var safe = Lanes.ConditionalSelect(Lanes.Equals(value, value).AsUInt32(), rounded, Lanes.Create(0x7fc0u));
            Lanes.Narrow(safe, safe).GetLower().Store((ushort*)at);
        }
    }
}
