using System.Diagnostics;
using System.Runtime.ExceptionServices;

namespace Ctkd.Images;

/// <summary>
/// Decodes batches of photographs on threads of its own into memory that is used again and again. The bytes depend neither
/// on the number of threads nor on which finishes first.
/// </summary>
public sealed class PhotoLoader : IDisposable
{
    /// <summary>After so many unreadable images in a row, or after all of fewer, a request fails: the disk is gone.</summary>
    public const int MostInARow = 1_000;

    private readonly IPhotoSource _source;
    private readonly int _height;
    private readonly int _width;
    private readonly KeptImages _kept;
    private readonly Thread[] _threads;

    // All that follows is used under this lock, which is pulsed when a request comes, ends or frees its memory.
    private readonly object _gate = new();
    private readonly Queue<PhotoRequest> _queue = new();
    private readonly Stack<Slab> _free = new();
    private readonly HashSet<int> _unreadableImages = [];
    private readonly List<(string Name, string Reason)> _unreadable = [];
    private long _replaced;
    private TimeSpan _waited;
    private bool _isDisposed;

    /// <summary>Starts the threads.</summary>
    /// <param name="source">The files.</param>
    /// <param name="threads">How many threads decode, at least 1.</param>
    /// <param name="height">Rows of each result.</param>
    /// <param name="width">Columns of each result.</param>
    /// <param name="slabs">How many requests may be alive at once, at least 1.</param>
    /// <param name="keepDecodedBytes">
    /// Decoded pixels are kept up to so many bytes, for sets that are small enough: those are decoded once.
    /// </param>
    public PhotoLoader(IPhotoSource source, int threads, int height, int width, int slabs, long keepDecodedBytes)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(threads, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(height, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(slabs, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(source.Count, 1);
        _source = source;
        _height = height;
        _width = width;
        _kept = new KeptImages(source.Count, keepDecodedBytes);

        for (int i = 0; i < slabs; i++)
        {
            _free.Push(new Slab());
        }

        // Made here, so that a wrong choice of the library is the caller's error.
        var workers = Enumerable.Range(0, threads).Select(_ => new PhotoWorker(source, _kept, height, width)).ToArray();
        _threads = [.. workers.Select((worker, i) => new Thread(() => Work(worker)) { IsBackground = true, Name = $"decode {i}" })];

        foreach (var thread in _threads)
        {
            thread.Start();
        }
    }

    /// <summary>Bytes of one result: height x width x 3.</summary>
    public int RowBytes => checked(3 * _height * _width);

    /// <summary>
    /// Asks for a batch, and returns at once unless as many requests are alive as there are slabs: then it waits until one is
    /// disposed.
    /// </summary>
    /// <param name="images">Numbers of images.</param>
    /// <param name="positions">The place of each in the order of the epoch, which the chooser gets.</param>
    /// <param name="cut">Chooses what part of each is taken; called from several threads.</param>
    /// <param name="replace">
    /// Whether the next image that can be read takes the place of one that cannot, as training needs it. Else the row's bytes
    /// are 0, <c>Images</c> has -1 there, and no unreadable image makes the request fail.
    /// </param>
    public PhotoRequest Request(int[] images, int[] positions, CutChooser cut, bool replace = true)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(positions.Length, images.Length);

        foreach (int image in images)
        {
            ArgumentOutOfRangeException.ThrowIfNegative(image);
            ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(image, _source.Count);
        }

        lock (_gate)
        {
            while (_free.Count == 0 && !_isDisposed)
            {
                Monitor.Wait(_gate);
            }

            ObjectDisposedException.ThrowIf(_isDisposed, this);
            var slab = _free.Pop();
            long length = (long)RowBytes * images.Length;

            try
            {
                slab.Reserve((nuint)length);
            }
            catch
            {
                _free.Push(slab);
                throw;
            }

            var request = new PhotoRequest(this, slab, length, images, positions, cut, replace);

            if (images.Length > 0)
            {
                _queue.Enqueue(request);
                Monitor.PulseAll(_gate);
            }

            return request;
        }
    }

    /// <summary>The images that could not be read, each once, with the reason.</summary>
    public IReadOnlyList<(string Name, string Reason)> Unreadable
    {
        get
        {
            lock (_gate)
            {
                return [.. _unreadable];
            }
        }
    }

    /// <summary>How many rows were filled by another image than the one asked for.</summary>
    public long Replaced
    {
        get
        {
            lock (_gate)
            {
                return _replaced;
            }
        }
    }

    /// <summary>Time spent inside <c>Wait</c>.</summary>
    public TimeSpan Waited
    {
        get
        {
            lock (_gate)
            {
                return _waited;
            }
        }
    }

    internal void Wait(PhotoRequest request)
    {
        long start = Stopwatch.GetTimestamp();

        lock (_gate)
        {
            while (request.Remaining > 0 && !_isDisposed)
            {
                Monitor.Wait(_gate);
            }

            _waited += Stopwatch.GetElapsedTime(start);
            request.Failure?.Throw();
            ObjectDisposedException.ThrowIf(request.Remaining > 0, this);
        }
    }

    internal bool IsFinished(PhotoRequest request)
    {
        lock (_gate)
        {
            return request.Remaining == 0 && request.Failure is null;
        }
    }

    internal void Abandon(PhotoRequest request)
    {
        lock (_gate)
        {
            request.IsAbandoned = true;

            if (request.Remaining == 0)
            {
                GiveBack(request.Slab);
            }
        }
    }

    /// <summary>Under the lock.</summary>
    private void GiveBack(Slab slab)
    {
        if (_isDisposed)
        {
            slab.Dispose();
        }
        else
        {
            _free.Push(slab);
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>The next row to decode, or false when the loader ends.</summary>
    private bool Take(out PhotoRequest request, out int row)
    {
        lock (_gate)
        {
            while (_queue.Count == 0 && !_isDisposed)
            {
                Monitor.Wait(_gate);
            }

            if (_isDisposed)
            {
                (request, row) = (null!, 0);
                return false;
            }

            request = _queue.Peek();
            row = request.NextRow++;

            if (request.NextRow == request.Count)
            {
                _queue.Dequeue();
            }

            return true;
        }
    }

    private void Finish(PhotoRequest request, ExceptionDispatchInfo? failure)
    {
        lock (_gate)
        {
            request.Failure ??= failure;

            if (--request.Remaining > 0)
            {
                return;
            }

            if (request.IsAbandoned)
            {
                GiveBack(request.Slab);
            }

            Monitor.PulseAll(_gate);
        }
    }

    private void Work(PhotoWorker worker)
    {
        while (Take(out var request, out int row))
        {
            ExceptionDispatchInfo? failure = null;

            try
            {
                // Nobody looks at what is left of those.
                if (!request.IsAbandoned && request.Failure is null)
                {
                    Fill(worker, request, row);
                }
            }
            catch (Exception problem)
            {
                failure = ExceptionDispatchInfo.Capture(problem);
            }

            Finish(request, failure);
        }

        worker.Dispose();
    }

    private void Fill(PhotoWorker worker, PhotoRequest request, int row)
    {
        if (request.MayReplace)
        {
            FillOrReplace(worker, request, row);
        }
        else if (!TryFill(worker, request, row, request.Wanted[row]))
        {
            request.Row(row, RowBytes).Clear();
            request.Images[row] = -1;
        }
    }

    /// <summary>Fills a row with an image. False where it cannot be read: it is noted, and not read again.</summary>
    private bool TryFill(PhotoWorker worker, PhotoRequest request, int row, int image)
    {
        if (IsUnreadable(image))
        {
            return false;
        }

        try
        {
            worker.Fill(image, request.Positions[row], request.Cut, request.Row(row, RowBytes));
            request.Images[row] = image;
            return true;
        }
        catch (PhotoException problem)
        {
            Note(image, problem.Message);
            return false;
        }
    }

    /// <summary>Fills a row with the image that was asked for, or with the next one that can be read.</summary>
    private void FillOrReplace(PhotoWorker worker, PhotoRequest request, int row)
    {
        int most = Math.Min(_source.Count, MostInARow);

        for (int tries = 0; tries < most; tries++)
        {
            int image = (int)(((long)request.Wanted[row] + tries) % _source.Count);

            if (TryFill(worker, request, row, image))
            {
                if (tries > 0)
                {
                    lock (_gate)
                    {
                        _replaced++;
                    }
                }

                return;
            }
        }

        throw new PhotoException(
            $"{most} images in a row cannot be read, the last one {_source.Name((int)(((long)request.Wanted[row] + most - 1) % _source.Count))}");
    }

    private bool IsUnreadable(int image)
    {
        lock (_gate)
        {
            return _unreadableImages.Contains(image);
        }
    }

    private void Note(int image, string reason)
    {
        lock (_gate)
        {
            if (_unreadableImages.Add(image))
            {
                _unreadable.Add((_source.Name(image), reason));
            }
        }
    }

    /// <summary>
    /// Stops the threads, after the images that they are decoding. Requests that are finished stay readable until they are
    /// disposed; <c>Wait</c> for others fails.
    /// </summary>
    public void Dispose()
    {
        lock (_gate)
        {
            if (_isDisposed)
            {
                return;
            }

            _isDisposed = true;
            Monitor.PulseAll(_gate);
        }

        foreach (var thread in _threads)
        {
            thread.Join();
        }

        lock (_gate)
        {
            // No thread writes into them any more.
            foreach (var slab in _free)
            {
                slab.Dispose();
            }

            _free.Clear();
        }
    }
}
