namespace Ctkd.Fs

open System
open System.IO
open System.Security.Cryptography
open System.Text
open System.Text.Json

/// Reads and writes safetensors files. Reading treats them as hostile: every number is checked before use.
[<RequireQualifiedAccess>]
module Safetensors =
    let private damaged (where: string) (reason: string) : Error =
        let what = $"'{Path.GetFileName where}' is not a whole safetensors file: {Files.printable reason}"
        Error.create Damaged what where "fetch or write the file again, or use an earlier one"

    /// Parses a file; the tensors are views of `bytes`, in the order of the data. Any violation of the format is an
    /// error, with `where` as its path.
    let parse (where: string) (bytes: byte[]) : Result<SafetensorsFile, Error> =
        try
            Ok(SafetensorsLayout.parse bytes)
        with
        | NotSafetensors reason -> Error(damaged where reason)
        | :? JsonException as problem -> Error(damaged where $"its header is no JSON ({problem.Message})")
        // Invalid UTF-8 in the header, or an unpaired surrogate in one of its strings.
        | :? DecoderFallbackException
        | :? InvalidOperationException -> Error(damaged where "its header holds text that is not Unicode")

    /// Reads a safetensors file of up to 2 GB.
    let read (path: string) : Result<SafetensorsFile, Error> = Files.read path |> Result.bind (parse path)

    /// The pieces of a file in order: head, then each tensor.
    let private pieces (file: SafetensorsFile) : ReadOnlyMemory<byte> list =
        try
            SafetensorsLayout.check file
            ReadOnlyMemory(SafetensorsLayout.head file) :: List.map _.Bytes file.Tensors
        with NotSafetensors reason ->
            invalidArg (nameof file) reason

    /// Encodes a file. A wrong size, type or name is a bug and raises an exception.
    let encode (file: SafetensorsFile) : byte[] = Files.join (pieces file)

    /// Writes a file atomically: on any failure, such as a full disk, the old file stays intact.
    let write (path: string) (file: SafetensorsFile) : Result<unit, Error> = Files.replaceByParts path (pieces file)

    // ---- sealed files

    let private sealName = "sha256"
    let private blank = String('0', 2 * SHA256.HashSizeInBytes)

    // The seal is the first metadata entry, so that its position is fixed.
    let private beforeSeal =
        Encoding.ASCII.GetBytes($"{{\"{SafetensorsLayout.metadataName}\":{{\"{sealName}\":\"")

    let private sealStart = SafetensorsLayout.prefixLength + beforeSeal.Length

    let private hash (parts: ReadOnlyMemory<byte> list) : byte[] =
        use algorithm = IncrementalHash.CreateHash HashAlgorithmName.SHA256
        parts |> List.iter (fun part -> algorithm.AppendData part.Span)
        Encoding.ASCII.GetBytes(Convert.ToHexStringLower(algorithm.GetHashAndReset()))

    let private unsealed (file: SafetensorsFile) : SafetensorsFile = {
        file with
            Metadata = file.Metadata |> List.filter (fun (key, _) -> key <> sealName)
    }

    let private sealedPieces (file: SafetensorsFile) : ReadOnlyMemory<byte> list =
        let plain = unsealed file
        let parts = pieces { plain with Metadata = (sealName, blank) :: plain.Metadata }
        let head = parts.Head.ToArray()
        (hash parts).CopyTo(head, sealStart)
        ReadOnlyMemory head :: parts.Tail

    let private checkSeal (where: string) (bytes: byte[]) (file: SafetensorsFile) : Result<SafetensorsFile, Error> =
        let sealEnd = sealStart + blank.Length
        let beginning = bytes |> Array.truncate sealStart |> Array.skip SafetensorsLayout.prefixLength

        if bytes.Length < sealEnd || beginning <> beforeSeal then
            Error(damaged where "it has no checksum at its beginning")
        else
            let before, after = ReadOnlyMemory(bytes, 0, sealStart), ReadOnlyMemory(bytes).Slice sealEnd
            let actual = hash [ before; ReadOnlyMemory(Encoding.ASCII.GetBytes blank); after ]

            if ReadOnlySpan(bytes, sealStart, blank.Length).SequenceEqual(ReadOnlySpan actual) then
                Ok(unsealed file)
            else
                Error(damaged where "its checksum differs, so it was changed or damaged after it was written")

    /// Encodes a file with `sha256` as its first metadata entry: the SHA-256 of the whole file, computed with zeros in
    /// place of its own 64 digits.
    let encodeSealed (file: SafetensorsFile) : byte[] = Files.join (sealedPieces file)

    /// As `parse`, for a sealed file: a single changed byte is an error. The seal is not returned.
    let parseSealed (where: string) (bytes: byte[]) : Result<SafetensorsFile, Error> =
        parse where bytes |> Result.bind (checkSeal where bytes)

    /// As `write`, with the checksum of `encodeSealed`.
    let writeSealed (path: string) (file: SafetensorsFile) : Result<unit, Error> =
        Files.replaceByParts path (sealedPieces file)

    /// Reads and verifies a sealed file.
    let readSealed (path: string) : Result<SafetensorsFile, Error> = Files.read path |> Result.bind (parseSealed path)
