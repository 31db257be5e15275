using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Ctkd.Engine;

/// <summary>
/// Checks the header of a native library before the system's loader does, which ends the process with a bus error if a
/// file is shorter than its header states.
/// </summary>
internal static class NativeFile
{
    private const int shortest = 64;

    // More means that the file is not a library.
    private const int mostParts = 4096;

    /// <summary>Returns the file name of a library on this platform.</summary>
    /// <param name="name">Such as <c>torch_cpu</c>.</param>
    public static string NameOf(string name) =>
        OperatingSystem.IsWindows() ? $"{name}.dll" : OperatingSystem.IsMacOS() ? $"lib{name}.dylib" : $"lib{name}.so";

    /// <summary>Returns what is wrong with a library, or null: its kind, its processor, and whether it is complete.</summary>
    /// <exception cref="IOException">The file cannot be read.</exception>
    public static string? Fault(string path)
    {
        using var file = File.OpenRead(path);
        var head = Read(file, 0, shortest);
        if (head is null)
            return $"it is damaged: {file.Length} bytes";
        string? kind = Kind(head);
        string wanted = OperatingSystem.IsWindows() ? "Windows" : OperatingSystem.IsMacOS() ? "macOS" : "Linux";
        if (kind is null)
            return "it is no native library";
        if (kind != wanted)
            return $"it is a library of {kind}, not of {wanted}";
        return kind switch
        {
            "Windows" => PortableExecutable(file, head),
            "macOS" => MachO(file, head),
            _ => Elf(file, head),
        };
    }

    private static string? Kind(ReadOnlySpan<byte> head) =>
        head.StartsWith("\u007fELF"u8) ? "Linux"
        : head.StartsWith("MZ"u8) ? "Windows"
        : U32(head, 0) is 0xFEEDFACF or 0xFEEDFACE or 0xBEBAFECA or 0xCFFAEDFE ? "macOS"
        : null;

    private static string? Elf(FileStream file, byte[] head)
    {
        const byte is64Bit = 2, isLittleEndian = 1;
        const int sharedObject = 3, programHeader = 56, load = 1;
        int machine = RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? 183 : 62;
        if (head[4] != is64Bit || head[5] != isLittleEndian || U16(head, 18) != machine)
            return OtherProcessor;
        if (U16(head, 16) != sharedObject || U16(head, 54) != programHeader)
            return "it is no native library";
        int count = U16(head, 56);
        var table = count is 0 or > mostParts ? null : Read(file, U64(head, 32), count * programHeader);
        if (table is null)
            return Cut(file);
        for (int at = 0; at < table.Length; at += programHeader)
            if (U32(table, at) == load && !Holds(file, U64(table, at + 8), U64(table, at + 32)))
                return Cut(file);
        return null;
    }

    private static string? PortableExecutable(FileStream file, byte[] head)
    {
        const int header = 24, section = 40;
        ulong start = U32(head, 60);
        if (Read(file, start, header) is not { } coff || U32(coff, 0) != 0x00004550)
            return Cut(file);
        if (U16(coff, 4) != (RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? 0xAA64 : 0x8664))
            return OtherProcessor;
        int count = U16(coff, 6);
        var table = count is 0 or > mostParts ? null : Read(file, start + header + U16(coff, 20), count * section);
        if (table is null)
            return Cut(file);
        for (int at = 0; at < table.Length; at += section)
            if (!Holds(file, U32(table, at + 20), U32(table, at + 16)))
                return Cut(file);
        return null;
    }

    private static string? MachO(FileStream file, byte[] head)
    {
        const int header = 32, segment64 = 0x19, segmentSize = 72;
        if (U32(head, 0) == 0xBEBAFECA)
            return null; // for several processors: the loader selects one
        if (U32(head, 4) != (RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? 0x0100000Cu : 0x01000007u))
            return OtherProcessor;
        uint count = U32(head, 16), size = U32(head, 20);
        var commands = size > 1 << 20 ? null : Read(file, header, (int)size);
        if (commands is null || count > mostParts)
            return Cut(file);
        int at = 0;
        for (uint i = 0; i < count; i++)
        {
            if (at + 8 > commands.Length || U32(commands, at + 4) is < 8 or > 1 << 20)
                return Cut(file);
            bool isSegment = U32(commands, at) == segment64 && at + segmentSize <= commands.Length;
            if (isSegment && !Holds(file, U64(commands, at + 40), U64(commands, at + 48)))
                return Cut(file);
            at += (int)U32(commands, at + 4);
        }

        return null;
    }

    private static string OtherProcessor => $"it is made for another processor than {RuntimeInformation.ProcessArchitecture}";

    private static string Cut(FileStream file) => $"it is damaged: its header does not fit its {file.Length} bytes";

    private static bool Holds(FileStream file, ulong start, ulong size) =>
        start <= (ulong)file.Length && size <= (ulong)file.Length - start;

    private static byte[]? Read(FileStream file, ulong start, int size)
    {
        if (!Holds(file, start, (ulong)size))
            return null;
        var bytes = new byte[size];
        file.Position = (long)start;
        file.ReadExactly(bytes);
        return bytes;
    }

    private static ushort U16(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt16LittleEndian(bytes[at..]);

    private static uint U32(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[at..]);

    private static ulong U64(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt64LittleEndian(bytes[at..]);
}
