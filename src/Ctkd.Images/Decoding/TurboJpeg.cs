using System.Runtime.InteropServices;

namespace Ctkd.Images;

/// <summary>libjpeg-turbo, where the system has it.</summary>
internal sealed unsafe class TurboJpeg : IDisposable
{
    /// <summary>The library's name on this system.</summary>
    public static readonly string FileName =
        OperatingSystem.IsWindows() ? "turbojpeg.dll" : OperatingSystem.IsMacOS() ? "libturbojpeg.dylib" : "libturbojpeg.so.0";

    private static readonly Functions? functions = Functions.Find();

    // 0 after it is disposed.
    private nint _instance;

    /// <summary>Whether the library is installed.</summary>
    public static bool IsThere => functions is not null;

    private sealed record Functions(nint Init, nint Decompress, nint Destroy)
    {
        public static Functions? Find()
        {
            // Not beside the program: only what the system installs.
            return NativeLibrary.TryLoad(FileName, typeof(TurboJpeg).Assembly, DllImportSearchPath.System32, out nint library)
                && NativeLibrary.TryGetExport(library, "tjInitDecompress", out nint init)
                && NativeLibrary.TryGetExport(library, "tjDecompress2", out nint decompress)
                && NativeLibrary.TryGetExport(library, "tjDestroy", out nint destroy)
                ? new Functions(init, decompress, destroy)
                : null;
        }
    }

    public TurboJpeg()
    {
        _instance = ((delegate* unmanaged[Cdecl]<nint>)functions!.Init)();

        if (_instance == 0)
        {
            throw new InvalidOperationException($"{FileName} gave no decoder");
        }
    }

    /// <summary>Decodes a plain JPEG file. False where the library complains.</summary>
    public bool TryDecode(ReadOnlySpan<byte> file, JpegFrame frame, ref byte[] rgba, out int height, out int width)
    {
        const int pixelsRgba = 7;

        nint instance = _instance;
        ObjectDisposedException.ThrowIf(instance == 0, this);
        (height, width) = (frame.Height, frame.Width);
        Decoder.Reserve(ref rgba, height, width);
        var decompress = (delegate* unmanaged[Cdecl]<nint, byte*, nuint, byte*, int, int, int, int, int, int>)functions!.Decompress;

        fixed (byte* bytes = file)
        fixed (byte* pixels = rgba)
        {
            int code = decompress(instance, bytes, (nuint)file.Length, pixels, width, 4 * width, height, pixelsRgba, 0);
            // Not finalised while the library works.
            GC.KeepAlive(this);
            return code == 0;
        }
    }

    public void Dispose()
    {
        nint instance = Interlocked.Exchange(ref _instance, 0);

        if (instance != 0)
        {
            ((delegate* unmanaged[Cdecl]<nint, int>)functions!.Destroy)(instance);
        }

        GC.SuppressFinalize(this);
    }

    ~TurboJpeg() => Dispose();
}
