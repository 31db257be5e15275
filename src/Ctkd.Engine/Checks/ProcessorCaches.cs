using System.Globalization;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using TorchSharp;
using static TorchSharp.torch;
using F = TorchSharp.torch.nn.functional;

namespace Ctkd.Engine;

/// <summary>
/// Gives oneDNN the cache sizes that a virtual machine hides. oneDNN 3.7 reads them on AMD processors from a CPUID leaf
/// that is empty on such a machine, assumes caches of one byte, and then computes some convolutions wrongly.
/// </summary>
internal static unsafe class ProcessorCaches
{
    /// <summary>Corrects oneDNN if necessary; returns what was done, or null.</summary>
    /// <param name="libtorch">The file of the loaded libtorch_cpu.</param>
    /// <param name="handle">Its handle.</param>
    /// <exception cref="EngineMissingException">Convolutions remain wrong.</exception>
    public static string? Mend(string libtorch, IntPtr handle)
    {
        if (!AreHidden)
            return null;
        using (NewDisposeScope())
        {
            // oneDNN reads the processor at its first use. Nothing else has this shape, whose kernel is cached.
            F.conv2d(ones(1, 5, 3, 7), ones(3, 5, 1, 1));
            int corrected = OperatingSystem.IsLinux() ? WriteSizes(handle) : 0;
            if (AreConvolutionsRight())
                return corrected > 0 ? "told the sizes of the caches, which this machine hides" : null;
            return Context.TrySet(Context.Mkldnn, false) && AreConvolutionsRight() ? Off : throw Wrong(libtorch);
        }
    }

    /// <summary>The result of <see cref="Mend"/> if oneDNN is turned off.</summary>
    public const string Off = "off: it computes wrongly where a machine hides the sizes of the caches";

    /// <summary>Whether this is an AMD processor without the leaf that describes its caches.</summary>
    private static bool AreHidden
    {
        get
        {
            const int cacheTopology = unchecked((int)0x8000001D), ofAmd = 0x68747541; // The letters "Auth".
            return X86Base.IsSupported && X86Base.CpuId(0, 0).Ebx == ofAmd && (X86Base.CpuId(cacheTopology, 0).Eax & 31) == 0;
        }
    }

    /// <summary>Sizes of the data caches in bytes: from the older leaves, else the smallest of such processors.</summary>
    private static (uint First, uint Second, uint Third) Sizes
    {
        get
        {
            uint first = (uint)X86Base.CpuId(unchecked((int)0x80000005), 0).Ecx >> 24;
            var (_, _, second, third) = X86Base.CpuId(unchecked((int)0x80000006), 0);
            uint kilobytes = (uint)second >> 16, halfMegabytes = (uint)third >> 18;
            return (Math.Max(first, 32) << 10, Math.Max(kilobytes, 512) << 10, Math.Clamp(halfMegabytes, 2, 64) << 19);
        }
    }

    /// <summary>Writes the sizes into each description of the processor in libtorch's memory.</summary>
    /// <returns>The number of descriptions.</returns>
    private static int WriteSizes(IntPtr handle)
    {
        // Xbyak's layout: ten sizes, ten numbers of cores that share one, and the number of levels.
        const int sharing = 10, levels = 20, words = 21, found = 3;
        var (first, second, third) = Sizes;
        int count = 0;
        foreach (var (start, end) in WritableParts(handle))
            for (uint* at = (uint*)start; at + words <= (uint*)end; at++)
            {
                if (at[0] != 1 || at[1] != 1 || at[2] != 1 || at[levels] != found)
                    continue;
                bool empty = true, plausible = true;
                for (int i = 3; i < sharing; i++)
                    empty &= at[i] == 0 && at[sharing + i] == 0;
                for (int i = 0; i < 3; i++)
                    plausible &= at[sharing + i] is > 0 and < 1024;
                if (!empty || !plausible)
                    continue;
                // oneDNN divides by the number of cores that share a cache.
                at[0] = first * at[sharing];
                at[1] = second * at[sharing + 1];
                at[2] = third * at[sharing + 2];
                count++;
            }

        return count;
    }

    /// <summary>Returns libtorch_cpu's writable segments and the zeroed memory after them.</summary>
    private static List<(ulong Start, ulong End)> WritableParts(IntPtr handle)
    {
        var lines = File.ReadLines("/proc/self/maps").Select(line =>
        {
            string[] fields = line.Split(' ', 6, StringSplitOptions.TrimEntries);
            var range = fields[0].Split('-').Select(text => ulong.Parse(text, NumberStyles.HexNumber, CultureInfo.InvariantCulture)).ToArray();
            return (Start: range[0], End: range[1], IsWritable: fields[1].StartsWith("rw", StringComparison.Ordinal), Path: fields.Length == 6 ? fields[5] : "");
        }).ToList();
        // The full path, in case it was loaded through links.
        ulong inside = (ulong)NativeLibrary.GetExport(handle, Context.Global);
        string library = lines.Single(line => line.Start <= inside && inside < line.End).Path;
        var parts = new List<(ulong Start, ulong End)>();
        ulong reached = 0;
        foreach (var (start, end, isWritable, path) in lines)
        {
            if (path != library && (path.Length > 0 || start != reached))
                continue;
            reached = end;
            if (isWritable)
                parts.Add((start, end));
        }

        return parts;
    }

    /// <summary>Compares the convolutions that such a machine computes wrongly with float64, which does not use oneDNN.</summary>
    private static bool AreConvolutionsRight()
    {
        (long Inputs, long Outputs, long Kernel, long Groups, bool Last, ScalarType Type)[] cases =
        [
            (8, 100, 1, 1, true, ScalarType.Float32),
            (2, 16, 3, 2, true, ScalarType.Float32),
            (24, 16, 3, 1, false, ScalarType.Float32),
            (16, 100, 1, 1, true, ScalarType.BFloat16),
            (16, 24, 3, 1, false, ScalarType.BFloat16),
        ];
        foreach (var (inputs, outputs, kernel, groups, last, type) in cases)
        {
            using var scope = NewDisposeScope();
            // Sums of such numbers are exact in bfloat16 too.
            var x = Pattern(2, inputs, 8, 8);
            var w = Pattern(outputs, inputs / groups, kernel, kernel);
            Tensor Typed(Tensor t) => (last ? t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) : t).to_type(type);
            var wanted = F.conv2d(x, w, padding: [kernel / 2, kernel / 2], groups: groups);
            var found = F.conv2d(Typed(x), Typed(w), padding: [kernel / 2, kernel / 2], groups: groups);
            if ((found.to_type(ScalarType.Float64) - wanted).abs().max().item<double>() > 0)
                return false;
        }

        return true;
    }

    /// <summary>Returns minus one, zero and one in turn, in float64.</summary>
    private static Tensor Pattern(params long[] shape)
    {
        var values = new double[shape.Aggregate(1L, (a, b) => a * b)];
        for (int i = 0; i < values.Length; i++)
            values[i] = (uint)i * 2654435761u % 3 - 1.0;
        return tensor(values, shape);
    }

    private static EngineMissingException Wrong(string libtorch) =>
        new("this libtorch computes convolutions wrongly on this virtual machine, which hides the sizes of its caches",
            libtorch,
            "run it on another machine, or let the virtual machine pass on CPUID leaf 0x8000001D");
}
