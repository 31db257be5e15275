using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

[assembly: InternalsVisibleTo("Ctkd.Fs.Tests")]

namespace Ctkd.Engine;

/// <summary>
/// Divides a range of addresses into blocks: takes the smallest free block that is large enough, and merges free
/// neighbours. Never reads or writes the range itself, and allocates nothing after construction, so that native code
/// may call it. Not synchronised.
/// </summary>
internal sealed unsafe class Blocks
{
    /// <summary>Sizes are rounded up to this number of bytes, and blocks aligned to it if the range is.</summary>
    public const int Grain = 4096;

    // Describes Grain bytes. A block is described in its first unit; a free one also in its last, for its right
    // neighbour.
    private struct Unit
    {
        public int Size; // units, at a block's first unit: > 0 free, < 0 taken; 0 inside a block
        public int Length; // units, at a free block's last unit, else 0
        public int Next, Previous; // neighbours in the bin's list, or -1
    }

    private const int Bins = 256;
    private readonly nint begin;
    private readonly int count;
    private readonly Unit* units;
    private readonly int* heads; // first free block of each bin
    private readonly ulong* filled; // one bit per bin: whether it has blocks

    /// <param name="begin">First address.</param>
    /// <param name="length">Bytes, a multiple of <see cref="Grain"/>.</param>
    /// <param name="table">Zeroed memory of <see cref="TableBytes"/> bytes, touched only where blocks begin or end.</param>
    public Blocks(nint begin, long length, nint table)
    {
        this.begin = begin;
        count = checked((int)(length / Grain));
        filled = (ulong*)table;
        heads = (int*)(filled + Bins / 64);
        units = (Unit*)(heads + Bins);
        new Span<int>(heads, Bins).Fill(-1);
        Insert(0, count);
    }

    /// <summary>Returns the bytes of the table for a range of this length.</summary>
    public static long TableBytes(long length) => Bins / 8 + Bins * sizeof(int) + length / Grain * sizeof(Unit);

    /// <summary>Bytes in taken blocks, rounded up to <see cref="Grain"/> each.</summary>
    public long Taken { get; private set; }

    /// <summary>Number of taken blocks.</summary>
    public int TakenBlocks { get; private set; }

    /// <summary>Number of free blocks, after merging neighbours.</summary>
    public int FreeBlocks { get; private set; }

    /// <summary>Takes the smallest free block of at least <paramref name="bytes"/>; returns 0 if there is none.</summary>
    public nint Take(nuint bytes)
    {
        if (bytes == 0 || bytes > (nuint)count * Grain)
            return 0;
        int size = (int)((bytes + Grain - 1) / Grain);
        int bin = Bin(size);
        int best = Smallest(bin, size);
        if (best < 0 && (bin = NextFilled(bin + 1)) < Bins)
            best = Smallest(bin, size);
        if (best < 0)
            return 0;
        int rest = units[best].Size - size;
        Remove(best);
        if (rest > 0)
            Insert(best + size, rest);
        units[best].Size = -size;
        Taken += (long)size * Grain;
        TakenBlocks++;
        return begin + (nint)best * Grain;
    }

    /// <summary>Frees a taken block. Returns false and does nothing if no taken block begins at this address.</summary>
    public bool Give(nint address)
    {
        nint offset = address - begin;
        if (offset < 0 || offset >= (nint)count * Grain || offset % Grain != 0)
            return false;
        int at = (int)(offset / Grain);
        int size = -units[at].Size;
        if (size <= 0)
            return false;
        units[at].Size = 0;
        Taken -= (long)size * Grain;
        TakenBlocks--;
        int right = at + size;
        if (right < count && units[right].Size > 0)
        {
            size += units[right].Size;
            Remove(right);
        }
        if (at > 0 && units[at - 1].Length > 0)
        {
            int left = units[at - 1].Length;
            at -= left;
            size += left;
            Remove(at);
        }
        Insert(at, size);
        return true;
    }

    /// <summary>Calls <paramref name="visit"/> with address and size in bytes of every free block.</summary>
    public void ForEachFree(Action<nint, long> visit)
    {
        for (int bin = NextFilled(0); bin < Bins; bin = NextFilled(bin + 1))
            for (int at = heads[bin]; at >= 0; at = units[at].Next)
                visit(begin + (nint)at * Grain, (long)units[at].Size * Grain);
    }

    // Sizes below 8 have a bin each; above, each power of two is divided into 8 bins. Bins are in ascending order of
    // size.
    private static int Bin(int size)
    {
        int log = BitOperations.Log2((uint)size);
        return size < 8 ? size : (log - 2) * 8 + (size >> (log - 3) & 7);
    }

    private int NextFilled(int bin)
    {
        for (int word = bin / 64; word < Bins / 64; word++, bin = word * 64)
        {
            ulong bits = filled[word] & ulong.MaxValue << bin % 64;
            if (bits != 0)
                return word * 64 + BitOperations.TrailingZeroCount(bits);
        }
        return Bins;
    }

    // Of equal blocks the one with the lowest address, to keep used memory together.
    private int Smallest(int bin, int size)
    {
        int best = -1;
        for (int at = heads[bin]; at >= 0; at = units[at].Next)
            if (units[at].Size >= size
                && (best < 0 || units[at].Size < units[best].Size || units[at].Size == units[best].Size && at < best))
                best = at;
        return best;
    }

    private void Insert(int at, int size)
    {
        int bin = Bin(size);
        int next = heads[bin];
        units[at].Size = size;
        units[at].Next = next;
        units[at].Previous = -1;
        units[at + size - 1].Length = size;
        if (next >= 0)
            units[next].Previous = at;
        heads[bin] = at;
        filled[bin / 64] |= 1ul << bin % 64;
        FreeBlocks++;
    }

    private void Remove(int at)
    {
        int size = units[at].Size, next = units[at].Next, previous = units[at].Previous;
        if (next >= 0)
            units[next].Previous = previous;
        if (previous >= 0)
            units[previous].Next = next;
        else
        {
            int bin = Bin(size);
            heads[bin] = next;
            if (next < 0)
                filled[bin / 64] &= ~(1ul << bin % 64);
        }
        units[at].Size = 0;
        units[at + size - 1].Length = 0;
        FreeBlocks--;
    }
}
