namespace Ctkd.Fs

open System
open System.IO
open System.Security.Cryptography
open System.Text
open System.Text.Json

/// Safetensors files, read as if an enemy had written them: every number is checked before it is used.
[<RequireQualifiedAccess>]
module Safetensors =
    let private damaged (where: string) (reason: string) : Error =
        let what = $"'{Path.GetFileName where}' is not a whole safetensors file: {Files.printable reason}"
        Error.create Damaged what where "fetch or write the file again, or use an earlier one"

    /// The file in `bytes`, in the order of its data; the tensors are views of `bytes`.
    /// Anything that the format does not allow is an error; `where` is the path that the message names.
    let parse (where: string) (bytes: byte[]) : Result<SafetensorsFile, Error> =
        try
            Ok(SafetensorsLayout.parse bytes)
        with
        | NotSafetensors reason -> Error(damaged where reason)
        | :? JsonException as problem -> Error(damaged where $"its header is no JSON ({problem.Message})")
        // Bad UTF-8 in the header, or half a surrogate pair in one of its strings.
        | :? DecoderFallbackException
        | :? InvalidOperationException -> Error(damaged where "its header holds text that is not Unicode")

    /// Reads a safetensors file of up to 2 GB.
    let read (path: string) : Result<SafetensorsFile, Error> = Files.read path |> Result.bind (parse path)

    /// The file's pieces in their order: head, then each tensor.
    let private pieces (file: SafetensorsFile) : ReadOnlyMemory<byte> list =
        try
            SafetensorsLayout.check file
            ReadOnlyMemory(SafetensorsLayout.head file) :: List.map _.Bytes file.Tensors
        with NotSafetensors reason ->
            invalidArg (nameof file) reason

    /// The bytes of a file. A wrong size, type or name in it is a mistake of the program: an exception.
    let encode (file: SafetensorsFile) : byte[] = Files.join (pieces file)

    /// Writes a file in one step: after any failure, a full disk included, the old file is still whole.
    let write (path: string) (file: SafetensorsFile) : Result<unit, Error> =
        Files.replaceByParts path (pieces file)

    // ---- sealed files

    let private sealName = "sha256"
    let private blank = String('0', 2 * SHA256.HashSizeInBytes)

    // The seal is the first metadata entry, so that it always lies at the same place.
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

    let private checkSeal
        (where: string)
        (bytes: byte[])
        (file: SafetensorsFile)
        : Result<SafetensorsFile, Error> =
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

    /// The bytes of a file whose metadata begins with `sha256`: the SHA-256 of the whole file, taken with
    /// zeros in the place of its own 64 digits.
    let encodeSealed (file: SafetensorsFile) : byte[] = Files.join (sealedPieces file)

    /// As `parse`, for a sealed file: a single changed byte anywhere is an error. The seal is not returned.
    let parseSealed (where: string) (bytes: byte[]) : Result<SafetensorsFile, Error> =
        parse where bytes |> Result.bind (checkSeal where bytes)

    /// As `write`, with the checksum of `encodeSealed`.
    let writeSealed (path: string) (file: SafetensorsFile) : Result<unit, Error> =
        Files.replaceByParts path (sealedPieces file)

    /// Reads a sealed file and verifies it before anything is returned.
    let readSealed (path: string) : Result<SafetensorsFile, Error> =
        Files.read path |> Result.bind (parseSealed path)
