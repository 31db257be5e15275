namespace Ctkd.Fs

open System
open System.IO
open System.IO.Compression
open System.Security.Cryptography
open Ctkd.Onnx

/// A file that holds a network's program beside its weights.
[<RequireQualifiedAccess>]
type NetworkFile =
    /// What `torch.jit.save` writes.
    | TorchScript
    | Onnx

/// Tells files of networks from files of weights, by content and not by name.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module NetworkFile =

    /// The name of a kind of file, which settings have in place of a model's name.
    let name (kind: NetworkFile) : string =
        match kind with
        | NetworkFile.TorchScript -> "torchscript"
        | NetworkFile.Onnx -> "onnx"

    /// The names of all kinds.
    let names: string list = [ NetworkFile.TorchScript; NetworkFile.Onnx ] |> List.map name

    let private sniffed = 16

    /// Whether a zip file's names are those of a TorchScript program.
    let private hasProgram (names: string seq) : bool =
        let names = Array.ofSeq names

        let folder =
            names
            |> Array.tryFind (fun name ->
                name = "constants.pkl" || name.EndsWith("/constants.pkl", StringComparison.Ordinal)
            )
            |> Option.map (fun name -> name.Substring(0, name.Length - "constants.pkl".Length))

        match folder with
        | None -> false
        | Some folder ->
            Array.contains (folder + "data.pkl") names
            && names |> Array.exists _.StartsWith(folder + "code/", StringComparison.Ordinal)

    let private isTorchScript (stream: Stream) : bool =
        try
            use zip = new ZipArchive(stream, ZipArchiveMode.Read, true)
            zip.Entries |> Seq.map _.FullName |> hasProgram
        with :? InvalidDataException ->
            // Some other file that begins so: the reader of weights says what is wrong with it.
            false

    /// Returns the kind of a file of a network; None for any other file, or an error if it cannot be read.
    let kindOf (path: string) : Result<NetworkFile option, Error> =
        Files.openRead path
        |> Result.bind (fun stream ->
            try
                use stream = stream
                let start = Array.zeroCreate<byte> sniffed
                let count = stream.ReadAtLeast(Span start, sniffed, false)
                let isSafetensors = count > 8 && start[8] = byte '{'

                if count > 4 && start[0] = byte 'P' && start[1] = byte 'K' then
                    stream.Position <- 0L
                    Ok(if isTorchScript stream then Some NetworkFile.TorchScript else None)
                elif not isSafetensors && OnnxNetwork.IsOnnx(ReadOnlySpan(start, 0, count)) then
                    Ok(Some NetworkFile.Onnx)
                else
                    Ok None
            with
            | :? IOException
            | :? UnauthorizedAccessException as problem ->
                Error.fail Missing problem.Message path "check the disk, or copy the file again"
        )

    /// Checks that bytes are a whole TorchScript archive, as strictly as files of weights: libtorch reads nothing else.
    let checkTorchScript (path: string) (bytes: byte[]) : Result<unit, Error> =
        let damaged (reason: string) : Result<unit, Error> =
            Error.fail
                Damaged
                $"this is no whole TorchScript file: {Files.printable reason}"
                path
                "write it again with torch.jit.save, or fetch it again"

        try
            let entries = ZipEntries.parse (MemoryBudget.create ()) bytes
            let inflation = Inflation.ofFile bytes.LongLength

            // Checksums: a file that was damaged on its way ends here.
            for entry in entries.Values do
                ZipEntries.contents inflation entry |> ignore

            if hasProgram entries.Keys then
                Ok()
            else
                damaged "it has no program (constants.pkl and code/)"
        with Unpicklable reason ->
            damaged reason

    /// SHA-256 of bytes.
    let hash (bytes: byte[]) : string = Convert.ToHexStringLower(SHA256.HashData bytes)

    /// SHA-256 of a file, read piece by piece.
    let hashOf (path: string) : Result<string, Error> =
        Files.openRead path
        |> Result.bind (fun stream ->
            try
                use stream = stream
                Ok(Convert.ToHexStringLower(SHA256.HashData(stream :> Stream)))
            with :? IOException as problem ->
                Error.fail Missing problem.Message path "check the disk, or copy the file again"
        )
