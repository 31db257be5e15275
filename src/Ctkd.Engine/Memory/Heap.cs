using System.Globalization;
using System.Runtime.InteropServices;
using TorchSharp;

namespace Ctkd.Engine;

/// <summary>
/// Allocates large CPU tensors. On x64 Linux, with the libtorch version it was tested with, they lie in one range of
/// huge pages that <see cref="Blocks"/> divides, which a training step reuses with less waste than malloc. Small
/// tensors, and all tensors in case of doubt, stay with libtorch's own allocator.
/// </summary>
/// <remarks>
/// libtorch requests memory from a <c>c10::Allocator</c>, an object with virtual functions. Ours copies libtorch's and
/// replaces two functions by a few instructions in <see cref="Stub"/>: they call <see cref="Take"/> for large sizes,
/// and jump to libtorch's function for small ones and when the range is full. So a C++ exception of libtorch never
/// meets a managed frame, and at process exit both entries to managed code can be closed while libtorch still frees
/// tensors.
/// </remarks>
public static unsafe class Heap
{
    /// <summary>Tensors of at least this many bytes lie in the range.</summary>
    public const int Large = 256 << 10;

    private const int HugePage = 2 << 20;
    private const uint Libtorch = 0x020a; // the ABI's version that the layout was checked with: 2.10

    /// <summary>The allocator in use: <c>huge pages: …</c>, or <c>malloc: …</c> with the reason.</summary>
    public static string State { get; private set; } = "malloc: the engine is not loaded";

    /// <summary>Whether large tensors lie on huge pages.</summary>
    public static bool Active { get; private set; }

    /// <summary>Bytes and number of live large tensors; 0 unless <see cref="Active"/>.</summary>
    public static (long Bytes, int Count) Taken
    {
        get
        {
            if (blocks is null)
                return default;
            Enter();
            var taken = (blocks.Taken, blocks.TakenBlocks);
            Leave();
            return taken;
        }
    }

    /// <summary>
    /// Replaces libtorch's allocator, once per process; later calls do nothing. The environment variable
    /// CTKD_HEAP=malloc keeps libtorch's. Existing tensors stay where they are.
    /// </summary>
    /// <param name="c10">Handle of libtorch's library c10.</param>
    /// <param name="cpu">Handle of libtorch's library torch_cpu.</param>
    /// <returns>Whether large tensors lie on huge pages; if not, <see cref="State"/> gives the reason.</returns>
    internal static bool Use(nint c10, nint cpu)
    {
        lock (gate)
        {
            if (used)
                return Active;
            used = true;
            string? doubt = Environment.GetEnvironmentVariable("CTKD_HEAP") == "malloc" ? "CTKD_HEAP asks for it"
                : !Natives.Tunes ? "CTKD_TUNING asks for it"
                : Place(c10, cpu);
            Active = doubt is null;
            State = doubt is null
                ? string.Create(CultureInfo.InvariantCulture, $"huge pages: tensors of {Large >> 10} KiB and more, up to {length >> 30} GiB")
                : "malloc: " + doubt;
            return Active;
        }
    }

    /// <summary>Returns the pages of free blocks to the system: useful after a phase that needed much more memory than the next.</summary>
    public static void Trim()
    {
        if (blocks is null)
            return;
        Enter();
        blocks.ForEachFree(static (at, bytes) => _ = madvise((void*)at, (nuint)bytes, DontNeed));
        Leave();
    }

    private static readonly Lock gate = new();
    private static bool used;
    private static nint begin;
    private static long length;
    private static Blocks? blocks;
    private static int turn;
    private static nuint requested; // by the last Take, for the check at start

    // ---- called by the machine code in Stub, on any thread, also native ones: must neither throw nor allocate ----

    [UnmanagedCallersOnly]
    private static nint Take(nuint bytes)
    {
        Enter();
        requested = bytes;
        nint at = blocks!.Take(bytes);
        Leave();
        return at;
    }

    [UnmanagedCallersOnly]
    private static void Give(nint at)
    {
        Enter();
        bool given = blocks!.Give(at);
        Leave();
        if (!given)
            Environment.FailFast("A tensor's memory was freed twice, or its address was changed, at 0x" + at.ToString("x"));
    }

    // The runtime's locks may wait and allocate. This one is held for less than a microsecond, except by Trim.
    private static void Enter()
    {
        var wait = new SpinWait();
        while (Interlocked.CompareExchange(ref turn, 1, 0) != 0)
            wait.SpinOnce();
    }

    private static void Leave() => Volatile.Write(ref turn, 0);

    // ---- libtorch's allocator ----

    // c10::DataPtr in libstdc++'s layout of unique_ptr. C++ functions return it through a pointer in the first
    // argument.
    [StructLayout(LayoutKind.Sequential)]
    private struct DataPtr
    {
        public nint Data, Deleter, Context;
        public ushort Device;
    }

    // c10::Allocator's virtual functions, from the vtable's address point on. Before it: offset to top, type
    // information.
    private const int Allocate = 2, IsSimpleDataPtr = 3, RawDeleter = 4, CopyData = 5, Functions = 6, Before = 2;

    /// <summary>Replaces libtorch's allocator. Returns null, or the doubt that forbids it, and then changes nothing.</summary>
    private static string? Place(nint c10, nint cpu)
    {
        if (!OperatingSystem.IsLinux() || RuntimeInformation.ProcessArchitecture != Architecture.X64)
            return "this is not Linux on x64";
        if (!NativeLibrary.TryGetExport(cpu, "aoti_torch_abi_version", out nint version)
            || !NativeLibrary.TryGetExport(cpu, "aoti_torch_get_data_ptr", out nint dataPtr)
            || !NativeLibrary.TryGetExport(c10, "_ZN3c1015GetCPUAllocatorEv", out nint get)
            || !NativeLibrary.TryGetExport(c10, "_ZN3c1015SetCPUAllocatorEPNS_9AllocatorEh", out nint set)
            || !NativeLibrary.TryGetExport(c10, "_ZTVN3c1019DefaultCPUAllocatorE", out nint defaultTable)
            || !NativeLibrary.TryGetExport(c10, "_ZNK3c109Allocator18is_simple_data_ptrERKNS_7DataPtrE", out nint isSimple))
            return "libtorch lacks a function that is needed";
        ulong abi = ((delegate* unmanaged<ulong>)version)();
        if (abi >> 48 != Libtorch)
            return $"libtorch {abi >> 56}.{abi >> 48 & 255} is not the version that this was checked with, {Libtorch >> 8}.{Libtorch & 255}";

        var current = (delegate* unmanaged<nint*>)get;
        var install = (delegate* unmanaged<nint*, byte, void>)set;
        nint* old = current();
        if (old == null || *old != defaultTable + Before * sizeof(nint))
            return "another allocator than libtorch's own is in use";
        var table = (nint*)*old;
        if (table[IsSimpleDataPtr] != isSimple || !IsLayoutKnown(old, table, out ushort device))
            return "libtorch's allocator is not laid out as expected";
        if (!Reserve())
            return "the system reserves no range of addresses";
        nint code = Stub.Write((nint)(delegate* unmanaged<nuint, nint>)&Take, (nint)(delegate* unmanaged<nint, void>)&Give,
            begin, length, (nint)old, table[Allocate], ((delegate* unmanaged<nint*, nint>)table[RawDeleter])(old), device);
        if (code == 0)
            return "the system allows no new machine code";

        // Neither is ever freed: a tensor's storage remembers its allocator.
        var ours = (nint*)NativeMemory.Alloc((nuint)((1 + Before + Functions) * sizeof(nint)));
        new Span<nint>(table - Before, Before + Functions).CopyTo(new Span<nint>(ours + 1, Before + Functions));
        *ours = (nint)(ours + 1 + Before);
        ((nint*)*ours)[Allocate] = code + Stub.Allocate;
        ((nint*)*ours)[RawDeleter] = code + Stub.RawDeleter;
        AppDomain.CurrentDomain.ProcessExit += (_, _) => Stub.Close(code);
        install(ours, 1);
        bool works = false;
        try
        {
            works = current() == ours && Works((delegate* unmanaged<nint, nint*, int>)dataPtr);
        }
        finally
        {
            if (!works)
                install(old, 1);
        }
        return works ? null : "a tensor made for a test did not come from the range";
    }

    // Whether libtorch's allocator, for 64 bytes, returns what DataPtr describes, frees, and copies.
    private static bool IsLayoutKnown(nint* allocator, nint* table, out ushort device)
    {
        const int Bytes = 64;
        const byte Untouched = 0xa5;
        byte* result = stackalloc byte[Bytes];
        new Span<byte>(result, Bytes).Fill(Untouched);
        var allocate = (delegate* unmanaged<void*, nint*, nuint, void*>)table[Allocate];
        var rawDeleter = (delegate* unmanaged<nint*, nint>)table[RawDeleter];
        var copy = (delegate* unmanaged<nint*, void*, void*, nuint, void>)table[CopyData];
        void* returned = allocate(result, allocator, Bytes);
        var p = (DataPtr*)result;
        device = p->Device;
        // type CPU (0) in the low byte, index "current" (-1) in the high byte; nothing was written after it
        if (returned != result || p->Data == 0 || p->Data % Bytes != 0 || p->Context != p->Data || p->Deleter != rawDeleter(allocator)
            || device != 0xff00 || new Span<byte>(result + sizeof(DataPtr), Bytes - sizeof(DataPtr)).ContainsAnyExcept(Untouched))
            return false;
        copy(allocator, (void*)p->Data, result, (nuint)sizeof(DataPtr));
        bool copied = new Span<byte>((void*)p->Data, sizeof(DataPtr)).SequenceEqual(new Span<byte>(result, sizeof(DataPtr)));
        ((delegate* unmanaged<nint, void>)p->Deleter)(p->Data);
        return copied;
    }

    // Whether a large tensor is allocated within the range and freed, and a small one elsewhere.
    private static bool Works(delegate* unmanaged<nint, nint*, int> dataPtr)
    {
        const int Bytes = Large + 12345;
        var before = Taken;
        using (var small = torch.empty(Large - 1, torch.uint8))
        {
            if (Taken != before)
                return false;
        }
        using (var large = torch.empty(Bytes, torch.uint8))
        {
            nint at;
            if (requested != Bytes || Taken.Count != before.Count + 1 || dataPtr(large.Handle, &at) != 0 || at < begin || at + Bytes > begin + length)
                return false;
            large.fill_(1);
            using var sum = large.sum();
            if (sum.item<long>() != Bytes)
                return false;
        }
        return Taken == before;
    }

    // As large as the machine's memory; malloc serves what does not fit. Addresses cost nothing until written to.
    private static bool Reserve()
    {
        length = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / HugePage * HugePage;
        byte* range = mmap(null, (nuint)(length + HugePage), ReadWrite, PrivateAnonymousUnreserved, -1, 0);
        byte* table = mmap(null, (nuint)Blocks.TableBytes(length), ReadWrite, PrivateAnonymousUnreserved, -1, 0);
        if (length < HugePage || (nint)range == -1 || (nint)table == -1)
            return false;
        begin = ((nint)range + HugePage - 1) / HugePage * HugePage;
        _ = madvise((void*)begin, (nuint)length, AdviseHugePages); // optional: without huge pages the range is only slower
        blocks = new Blocks(begin, length, (nint)table);
        return true;
    }

    private const int ReadWrite = 3, PrivateAnonymousUnreserved = 0x4022, DontNeed = 4, AdviseHugePages = 14;

    [DllImport("libc.so.6")]
    private static extern byte* mmap(void* at, nuint bytes, int protection, int flags, int file, nint offset);

    [DllImport("libc.so.6")]
    private static extern int madvise(void* at, nuint bytes, int advice);

    [DllImport("libc.so.6")]
    private static extern int mprotect(void* at, nuint bytes, int protection);

    /// <summary>The instructions that libtorch calls: one page of code, followed by one page of the words that it reads.</summary>
    private static class Stub
    {
        public const int Allocate = 0, RawDeleter = 0x90;
        private const int LargeAt = 0x07, Nothing = 0xa0, Page = 4096, ReadExecute = 5;

        // words of the second page
        private const int TakeWord = 0, GiveWord = 1, BeginWord = 2, LengthWord = 3, OldWord = 4, OldAllocateWord = 5, OldDeleterWord = 6, DeviceWord = 7;

        /// <summary>Writes the code; returns its address, or 0 if the system refuses.</summary>
        public static nint Write(nint take, nint give, nint begin, long length, nint old, nint oldAllocate, nint oldDeleter, ushort device)
        {
            byte* at = mmap(null, 2 * Page, ReadWrite, PrivateAnonymousUnreserved, -1, 0);
            if ((nint)at == -1)
                return 0;
            Code.CopyTo(new Span<byte>(at, Page));
            *(int*)(at + LargeAt) = Large;
            var words = (nint*)(at + Page);
            words[TakeWord] = take;
            words[GiveWord] = give;
            words[BeginWord] = begin;
            words[LengthWord] = (nint)length;
            words[OldWord] = old;
            words[OldAllocateWord] = oldAllocate;
            words[OldDeleterWord] = oldDeleter;
            words[DeviceWord] = device;
            return mprotect(at, Page, ReadExecute) == 0 ? (nint)at : 0;
        }

        /// <summary>Stops taking from and returning to the range, before the runtime ends.</summary>
        public static void Close(nint code)
        {
            var words = (nint*)(code + Page);
            Volatile.Write(ref words[TakeWord], code + Nothing);
            Volatile.Write(ref words[GiveWord], code + Nothing);
        }

        // System V: arguments in rdi, rsi, rdx; allocate gets the result's address as its first argument and returns
        // it.
        private static ReadOnlySpan<byte> Code =>
        [
            // DataPtr allocate(self, bytes)
            0xf3, 0x0f, 0x1e, 0xfa, //                   00 endbr64
            0x48, 0x81, 0xfa, 0x00, 0x00, 0x00, 0x00, // 04 cmp   rdx, Large       filled in
            0x72, 0x3b, //                               0b jb    small
            0x57, //                                     0d push  rdi
            0x52, //                                     0e push  rdx
            0x48, 0x83, 0xec, 0x08, //                   0f sub   rsp, 8           the stack is aligned to 16 at a call
            0x48, 0x89, 0xd7, //                         13 mov   rdi, rdx
            0xff, 0x15, 0xe4, 0x0f, 0x00, 0x00, //       16 call  [TakeWord]
            0x48, 0x83, 0xc4, 0x08, //                   1c add   rsp, 8
            0x5a, //                                     20 pop   rdx
            0x5f, //                                     21 pop   rdi
            0x48, 0x85, 0xc0, //                         22 test  rax, rax
            0x74, 0x21, //                               25 jz    small
            0x48, 0x89, 0x07, //                         27 mov   [rdi], rax       Data
            0x48, 0x89, 0x47, 0x10, //                   2a mov   [rdi + 16], rax  Context
            0x48, 0x8d, 0x0d, 0x2b, 0x00, 0x00, 0x00, // 2e lea   rcx, [free]
            0x48, 0x89, 0x4f, 0x08, //                   35 mov   [rdi + 8], rcx   Deleter
            0x0f, 0xb7, 0x0d, 0xf8, 0x0f, 0x00, 0x00, // 39 movzx ecx, [DeviceWord]
            0x66, 0x89, 0x4f, 0x18, //                   40 mov   [rdi + 24], cx   Device
            0x48, 0x89, 0xf8, //                         44 mov   rax, rdi
            0xc3, //                                     47 ret
            0x48, 0x8b, 0x35, 0xd1, 0x0f, 0x00, 0x00, // 48 small: mov rsi, [OldWord]
            0xff, 0x25, 0xd3, 0x0f, 0x00, 0x00, //       4f jmp   [OldAllocateWord]
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            // void free(data)
            0xf3, 0x0f, 0x1e, 0xfa, //                   60 endbr64
            0x48, 0x89, 0xf8, //                         64 mov   rax, rdi
            0x48, 0x2b, 0x05, 0xa2, 0x0f, 0x00, 0x00, // 67 sub   rax, [BeginWord]
            0x48, 0x3b, 0x05, 0xa3, 0x0f, 0x00, 0x00, // 6e cmp   rax, [LengthWord]
            0x73, 0x06, //                               75 jae   other
            0xff, 0x25, 0x8b, 0x0f, 0x00, 0x00, //       77 jmp   [GiveWord]
            0xff, 0x25, 0xad, 0x0f, 0x00, 0x00, //       7d other: jmp [OldDeleterWord]
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            // deleter rawDeleter(self)
            0xf3, 0x0f, 0x1e, 0xfa, //                   90 endbr64
            0x48, 0x8d, 0x05, 0xc5, 0xff, 0xff, 0xff, // 94 lea   rax, [free]
            0xc3, //                                     9b ret
            0, 0, 0, 0,
            // nothing: takes and frees nothing
            0xf3, 0x0f, 0x1e, 0xfa, //                   a0 endbr64
            0x31, 0xc0, //                               a4 xor   eax, eax
            0xc3, //                                     a6 ret
        ];
    }
}
