/// Archives made in memory.
module Ctkd.Fs.Tests.ArchiveFiles

open System
open System.Formats.Tar
open System.IO
open System.IO.Compression

/// A tar archive of these files, in a dialect.
let tarIn (format: TarEntryFormat) (files: (string * byte[]) list) : byte[] =
    use stream = new MemoryStream()

    using
        (new TarWriter(stream, format, true))
        (fun writer ->
            for name, data in files do
                let entry: TarEntry =
                    match format with
                    | TarEntryFormat.Pax -> PaxTarEntry(TarEntryType.RegularFile, name)
                    | TarEntryFormat.Gnu -> GnuTarEntry(TarEntryType.RegularFile, name)
                    | _ -> UstarTarEntry(TarEntryType.RegularFile, name)

                entry.DataStream <- new MemoryStream(data)
                writer.WriteEntry entry
        )

    stream.ToArray()

let tarOf (files: (string * byte[]) list) : byte[] = tarIn TarEntryFormat.Ustar files

/// The bytes, compressed.
let gzip (bytes: byte[]) : byte[] =
    use target = new MemoryStream()

    using (new GZipStream(target, CompressionLevel.Optimal, true)) (fun gzip -> gzip.Write(ReadOnlySpan bytes))

    target.ToArray()
