using System.Buffers.Binary;
using System.Security.Cryptography;

namespace Ctkd.Engine;

/// <summary>
/// Makes a copy of TorchSharp's native library that loads where the system's libstdc++ is older than the one it was
/// linked with (Debian 12, Ubuntu 22.04). The library requires a version of libstdc++ for one symbol that nothing in it
/// refers to; the copy marks that version as optional. Packages are not modified.
/// </summary>
internal static class RelaxedLibrary
{
    /// <summary>GCC 13's libstdc++ has this version, GCC 12's has not.</summary>
    private const string version = "GLIBCXX_3.4.32";

    // ELF constants.
    private const uint relocations = 4, dynamicSymbols = 11, symbolVersions = 0x6fffffff, neededVersions = 0x6ffffffe;
    private const byte weak = 2;

    /// <summary>Returns the library with the version marked, or null if that is not possible.</summary>
    public static byte[]? Relax(byte[] library)
    {
        try
        {
            var elf = new Elf((byte[])library.Clone());
            var needs = elf.Needs().ToList();
            var referred = elf.ReferredVersions();
            if (needs.Count == 0 || needs.Any(need => referred.Contains(need.Index)))
                return null;
            foreach (var need in needs)
                elf.Bytes[need.Flags] |= weak;
            return elf.Bytes;
        }
        catch (Exception error) when (error is ArgumentException or OverflowException or InvalidOperationException)
        {
            // A table is missing or points outside the file.
            return null;
        }
    }

    /// <summary>Writes the copy of a library to a cache folder, unless a complete one exists.</summary>
    /// <returns>The path of the copy.</returns>
    /// <exception cref="IOException">The folder is not writable; likewise <see cref="UnauthorizedAccessException"/>.</exception>
    public static string Keep(byte[] relaxed, string name, string cache)
    {
        string folder = Path.Combine(cache, Convert.ToHexString(SHA256.HashData(relaxed))[..16]);
        string path = Path.Combine(folder, name);
        if (!File.Exists(path) || !File.ReadAllBytes(path).AsSpan().SequenceEqual(relaxed))
        {
            Directory.CreateDirectory(folder);
            string draft = Path.Combine(folder, Path.GetRandomFileName());
            File.WriteAllBytes(draft, relaxed);
            // Atomic: several processes may start at once.
            File.Move(draft, path, overwrite: true);
        }

        return path;
    }

    private readonly record struct Need(int Flags, int Index);

    private readonly record struct Section(uint Type, int Start, int Size, int Link);

    private sealed class Elf(byte[] bytes)
    {
        private const int relocationSize = 24;

        private readonly List<Section> sections = Sections(bytes);

        public byte[] Bytes => bytes;

        /// <summary>Finds the requirements of the version: the position of its flags, and its number in the symbol table.</summary>
        public IEnumerable<Need> Needs()
        {
            foreach (var section in sections.Where(section => section.Type == neededVersions))
            {
                int strings = sections[section.Link].Start;
                // No library is that long: the bound ends cyclic chains.
                int left = section.Size / 16;
                int need = section.Start;
                while (left-- > 0)
                {
                    int aux = checked(need + (int)U32(bytes, need + 8));
                    for (int i = U16(bytes, need + 2); i > 0 && left-- > 0; i--)
                    {
                        if (Text(checked(strings + (int)U32(bytes, aux + 8))))
                            yield return new Need(aux + 4, U16(bytes, aux + 6));
                        aux = checked(aux + (int)U32(bytes, aux + 12));
                    }

                    int next = (int)U32(bytes, need + 12);
                    if (next == 0)
                        break;
                    need = checked(need + next);
                }
            }
        }

        /// <summary>Returns the numbers of the versions whose symbols the loader would have to find.</summary>
        public HashSet<int> ReferredVersions()
        {
            int versions = sections.Single(section => section.Type == symbolVersions).Start;
            int symbols = sections.FindIndex(section => section.Type == dynamicSymbols);
            var referred = new HashSet<int>();
            foreach (var section in sections.Where(section => section.Type == relocations && section.Link == symbols))
                for (int at = section.Start; at < checked(section.Start + section.Size); at += relocationSize)
                    referred.Add(U16(bytes, checked(versions + 2 * (int)U32(bytes, at + 12))) & 0x7fff);
            return referred;
        }

        private bool Text(int at)
        {
            Span<byte> wanted = stackalloc byte[version.Length + 1];
            System.Text.Encoding.ASCII.GetBytes(version, wanted);
            return bytes.AsSpan(at, wanted.Length).SequenceEqual(wanted);
        }

        private static List<Section> Sections(byte[] bytes)
        {
            int table = checked((int)U64(bytes, 0x28)), size = U16(bytes, 0x3A), count = U16(bytes, 0x3C);
            return [.. Enumerable.Range(0, count).Select(i => table + i * size).Select(at => new Section(
                U32(bytes, at + 4),
                checked((int)U64(bytes, at + 24)),
                checked((int)U64(bytes, at + 32)),
                checked((int)U32(bytes, at + 40))))];
        }

        private static ushort U16(byte[] bytes, int at) => BinaryPrimitives.ReadUInt16LittleEndian(bytes.AsSpan(at));

        private static uint U32(byte[] bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(at));

        private static ulong U64(byte[] bytes, int at) => BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(at));
    }
}
