using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;

namespace Ctkd.Images;

/// <summary>Memory outside the collector's heap, for the pixels of one request at a time.</summary>
internal sealed unsafe class Slab : IDisposable
{
    private nuint _length;

    public byte* Bytes { get; private set; }

    public void Reserve(nuint length)
    {
        if (_length < length)
        {
            Dispose();
            Bytes = (byte*)NativeMemory.AlignedAlloc(length, 64);
            _length = length;
            GC.ReRegisterForFinalize(this);
        }
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(Bytes);
        Bytes = null;
        _length = 0;
        GC.SuppressFinalize(this);
    }

    ~Slab() => NativeMemory.AlignedFree(Bytes);
}

/// <summary>A batch of photographs that is being decoded, or is ready. Disposing it gives its memory back to the loader.</summary>
public sealed unsafe class PhotoRequest : IDisposable
{
    private readonly PhotoLoader _loader;
    private readonly Slab _slab;
    private readonly long _length;
    private int _isDisposed;

    /// <summary>The images that were asked for, their places in the order, and the chooser.</summary>
    internal int[] Wanted { get; }

    internal int[] Positions { get; }

    internal CutChooser Cut { get; }

    internal bool MayReplace { get; }

    // The four below are read and written under the loader's lock.

    /// <summary>The next row that no thread has taken.</summary>
    internal int NextRow { get; set; }

    /// <summary>Rows that are not finished.</summary>
    internal int Remaining { get; set; }

    /// <summary>Why the request failed, if it did.</summary>
    internal ExceptionDispatchInfo? Failure { get; set; }

    /// <summary>Whether the caller has no use for it any more.</summary>
    internal bool IsAbandoned { get; set; }

    internal PhotoRequest(PhotoLoader loader, Slab slab, long length, int[] wanted, int[] positions, CutChooser cut, bool mayReplace)
    {
        _loader = loader;
        _slab = slab;
        _length = length;
        Wanted = wanted;
        Positions = positions;
        Cut = cut;
        MayReplace = mayReplace;
        Images = (int[])wanted.Clone();
        Remaining = wanted.Length;
    }

    internal Slab Slab => _slab;

    /// <summary>Where a row is written.</summary>
    internal Span<byte> Row(int row, int length) => new(_slab.Bytes + (long)row * length, length);

    /// <summary>
    /// Which image fills each row: the one that was asked for, or the next one that can be read; or -1 where it cannot be
    /// read and no other may take its place. Final after <c>Wait</c>.
    /// </summary>
    public int[] Images { get; }

    /// <summary>Rows.</summary>
    public int Count => Wanted.Length;

    /// <summary>Waits until every row is there.</summary>
    /// <exception cref="PhotoException">Too many images in a row could not be read, where others take their places.</exception>
    /// <exception cref="ObjectDisposedException">The loader was disposed before the request was finished.</exception>
    public void Wait() => _loader.Wait(this);

    /// <summary>The pixels after <c>Wait</c>: [rows, height, width, 3] bytes, valid until the request is disposed.</summary>
    public byte* Pixels
    {
        get
        {
            ObjectDisposedException.ThrowIf(_isDisposed != 0, this);
            return _loader.IsFinished(this)
                ? _slab.Bytes
                : throw new InvalidOperationException("the request is not finished: call Wait first");
        }
    }

    /// <summary>The pixels after <c>Wait</c>, as <c>Pixels</c>.</summary>
    public ReadOnlySpan<byte> Bytes => new(Pixels, checked((int)_length));

    /// <summary>Gives the memory back. Rows that are not decoded yet are left out.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _isDisposed, 1) == 0)
        {
            _loader.Abandon(this);
        }
    }
}
