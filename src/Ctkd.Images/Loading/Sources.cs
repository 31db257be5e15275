using System.IO.Hashing;
using Microsoft.Win32.SafeHandles;

namespace Ctkd.Images;

/// <summary>The files of photographs, by number. Several threads may read at once.</summary>
public interface IPhotoSource
{
    /// <summary>How many there are.</summary>
    int Count { get; }

    /// <summary>The name of one, for messages.</summary>
    string Name(int image);

    /// <summary>Reads one file into a buffer, which grows where it is too small.</summary>
    /// <returns>The bytes of the file.</returns>
    /// <exception cref="PhotoException">It cannot be read.</exception>
    int Read(int image, ref byte[] buffer);
}

/// <summary>What the sources share.</summary>
public static class PhotoSources
{
    /// <summary>The most bytes of a file: 512 MiB. No photograph has more.</summary>
    public const int MostBytes = 512 << 20;

    // Nobody is kept from writing or deleting what is only read here.
    internal static SafeFileHandle Open(string path) =>
        File.OpenHandle(path, share: FileShare.ReadWrite | FileShare.Delete, options: FileOptions.RandomAccess);

    internal static void Grow(ref byte[] buffer, int length)
    {
        if (buffer.Length < length)
        {
            buffer = new byte[length];
        }
    }

    internal static int Checked(long length) =>
        length <= MostBytes ? (int)length : throw new PhotoException($"it has {length} bytes, and at most {MostBytes} are read");

    internal static void ReadExactly(SafeFileHandle file, Span<byte> bytes, long offset)
    {
        for (int done = 0; done < bytes.Length;)
        {
            int read = RandomAccess.Read(file, bytes[done..], offset + done);
            done += read > 0 ? read : throw new PhotoException("it has become shorter while it was read");
        }
    }
}

/// <summary>Photographs in a folder.</summary>
/// <param name="root">The folder.</param>
/// <param name="relativePaths">Paths below it, with '/' between their parts.</param>
public sealed class FolderSource(string root, string[] relativePaths) : IPhotoSource
{
    /// <inheritdoc/>
    public int Count => relativePaths.Length;

    /// <inheritdoc/>
    public string Name(int image) => relativePaths[image];

    /// <inheritdoc/>
    public int Read(int image, ref byte[] buffer)
    {
        try
        {
            using var file = PhotoSources.Open(Path.Combine(root, relativePaths[image]));
            int length = PhotoSources.Checked(RandomAccess.GetLength(file));
            PhotoSources.Grow(ref buffer, length);
            PhotoSources.ReadExactly(file, buffer.AsSpan(0, length), 0);
            return length;
        }
        catch (Exception problem) when (problem is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new PhotoException("it is not there any more", problem);
        }
        catch (UnauthorizedAccessException problem)
        {
            throw new PhotoException("permission denied, or it is a folder", problem);
        }
        catch (Exception problem) when (problem is IOException or NotSupportedException)
        {
            throw new PhotoException($"it cannot be read: {problem.Message}", problem);
        }
    }
}

/// <summary>Photographs in memory.</summary>
/// <param name="files">The bytes of each file.</param>
public sealed class MemorySource(byte[][] files) : IPhotoSource
{
    /// <inheritdoc/>
    public int Count => files.Length;

    /// <inheritdoc/>
    public string Name(int image) => $"image {image}";

    /// <inheritdoc/>
    public int Read(int image, ref byte[] buffer)
    {
        PhotoSources.Grow(ref buffer, files[image].Length);
        files[image].CopyTo(buffer, 0);
        return files[image].Length;
    }
}

/// <summary>A file within a pack.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Offset">Where its bytes begin in the pack.</param>
/// <param name="Length">How many there are.</param>
/// <param name="Crc">CRC-32 of them.</param>
public readonly record struct PackedFile(string Name, long Offset, int Length, uint Crc);

/// <summary>
/// Photographs in one file, which stays open. Read by offset and not mapped into memory: a mapped file that is cut short
/// under a running program ends it.
/// </summary>
public sealed class PackSource : IPhotoSource, IDisposable
{
    private readonly PackedFile[] _files;
    private readonly SafeFileHandle _pack;

    /// <summary>Opens a pack.</summary>
    /// <param name="path">The pack.</param>
    /// <param name="files">Its files, or those of them that count here.</param>
    public PackSource(string path, PackedFile[] files)
    {
        _files = files;
        _pack = PhotoSources.Open(path);
    }

    /// <inheritdoc/>
    public int Count => _files.Length;

    /// <inheritdoc/>
    public string Name(int image) => _files[image].Name;

    /// <inheritdoc/>
    public int Read(int image, ref byte[] buffer)
    {
        var (_, offset, length, crc) = _files[image];
        PhotoSources.Checked(length);
        PhotoSources.Grow(ref buffer, length);

        try
        {
            PhotoSources.ReadExactly(_pack, buffer.AsSpan(0, length), offset);
        }
        catch (IOException problem)
        {
            throw new PhotoException($"it cannot be read: {problem.Message}", problem);
        }

        return Crc32.HashToUInt32(buffer.AsSpan(0, length)) == crc
            ? length
            : throw new PhotoException("its bytes in the pack are damaged: their CRC-32 is another");
    }

    /// <summary>Closes the pack.</summary>
    public void Dispose() => _pack.Dispose();
}
