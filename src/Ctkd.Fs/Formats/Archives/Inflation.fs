namespace Ctkd.Fs

/// The bytes that the compressed parts of a file, and of files in it, may still decompress to.
[<ReferenceEquality>]
type internal Inflation = { mutable Left: int64 }

/// Limits what compressed contents take in memory together: to 32 times the file's size, and to 40 MB for a small file.
/// Weights shrink to nine tenths, those of a network with nineteen zeros in twenty to a tenth.
[<RequireQualifiedAccess>]
module internal Inflation =
    let private least, private times = 40_000_000L, 32L

    /// What a file of so many bytes may give.
    let ofFile (bytes: int64) : Inflation = { Left = max least (times * bytes) }

    /// Allows a decompressed part before memory is taken for it.
    let take (bytes: int64) (inflation: Inflation) : unit =
        if bytes > inflation.Left then
            PickleInput.refuse
                $"it decompresses to more than {times} times its size and {least / 1_000_000L} MB: if you trust it, decompress it first"

        inflation.Left <- inflation.Left - bytes
