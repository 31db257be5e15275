namespace Ctkd.Fs

open System
open System.IO

/// A file of weights in any supported format.
[<ReferenceEquality>]
type WeightsFile = {
    /// As given, with the path inside an archive and the key.
    Path: string
    /// The same by its parts; of an archive with the file that was taken.
    Source: WeightsPath
    /// "safetensors", "PyTorch (zip)" or "PyTorch (before 1.6)", and the archive around it.
    Format: string
    IsSafetensors: bool
    /// Numbers and texts beside the tensors, such as the epoch.
    Metadata: (string * string) list
    /// All contents of the file.
    Root: TorchEntry
    /// Finds the weights for names that are expected, or without them.
    Find: string list option -> StateDict option
    /// The weights in file order, and how they were found.
    Found: StateDict
}

/// What a file holds: weights, or several files of weights of which none is named.
[<ReferenceEquality>]
type WeightsContents =
    | OneFile of WeightsFile
    | Several of ArchiveFile list

/// Reads files of weights: safetensors and PyTorch's, distinguished by contents, not by name.
[<RequireQualifiedAccess>]
module WeightsFile =

    let private isSafetensors (bytes: byte[]) : bool =
        bytes.Length > SafetensorsLayout.prefixLength && bytes[SafetensorsLayout.prefixLength] = byte '{'

    // ---- reading

    let private safetensors = "safetensors"

    /// The contents under the key, if one is asked for.
    let private selected (path: WeightsPath) (root: TorchEntry) : Result<TorchEntry, Error> =
        if path.Key = "" then
            Ok root
        else
            StateDict.select path.Key root |> Result.mapError (WeightsErrors.unknownKey path)

    let private withKey (key: string) (found: StateDict) : StateDict =
        if key = "" then
            found
        else
            {
                found with
                    Under = key :: found.Under
                    Others = found.Others |> List.map (fun (other, count) -> $"{key}.{other}", count)
            }

    /// The file of these contents.
    let internal create role (path: WeightsPath) format metadata (root: TorchEntry) : Result<WeightsFile, Error> =
        selected path root
        |> Result.bind (fun within ->
            let finder = StateDict.finder role within
            let find names = finder names |> Option.map (withKey path.Key)

            match find None with
            | None -> Error(WeightsErrors.nothingFound path within)
            | Some found ->
                Ok {
                    Path = WeightsPath.text path
                    Source = path
                    Format = format
                    IsSafetensors = (format = safetensors)
                    Metadata = metadata
                    Root = root
                    Find = find
                    Found = found
                }
        )

    // ---- archives

    /// Goes through a stream; what keeps it from being read becomes an error.
    let private ofStream (path: WeightsPath) (body: unit -> 'T) : Result<'T, Error> =
        let damaged reason next : Result<'T, Error> = Error(WeightsErrors.damagedArchive path reason next)

        try
            Ok(body ())
        with
        | Unpicklable reason -> damaged $"is no whole archive: {Files.printable reason}" "fetch the file again"
        | :? IOException
        | :? UnauthorizedAccessException as problem ->
            damaged $"cannot be read: {problem.Message}" "check the disk, or copy the file again"

    /// Opens a file and reads how it begins.
    let private startOf (path: WeightsPath) : Result<byte[], Error> =
        Files.openRead path.File
        |> Result.bind (fun stream ->
            ofStream
                path
                (fun () ->
                    use stream = stream
                    let start = Array.zeroCreate<byte> Archive.sniffed
                    start[.. stream.ReadAtLeast(Span start, start.Length, false) - 1]
                )
        )

    /// The path and the contents of the file in an archive that the path names, or of the only one of weights.
    let private inside
        (kind: Archive.Kind)
        (inflation: Inflation)
        (path: WeightsPath)
        (openIt: unit -> Stream)
        : Result<WeightsPath * byte[], Error> =
        let reading body =
            ofStream
                path
                (fun () ->
                    use stream = openIt ()
                    body stream
                )

        reading (Archive.list kind)
        |> Result.bind (fun files ->
            let weights = Archive.unpacked files |> List.filter Archive.isWeights

            let chosen =
                match path.Inner, weights with
                // One file that gzip compressed has no name.
                | "", _ when List.tryHead files |> Option.exists (fun file -> file.Name = "") -> Some("", path.Key)
                | "", [ only ] -> Some(only.Name, path.Key)
                | "", _ -> None
                | _ ->
                    WeightsPath.innerChoices path
                    |> List.tryFind (fun (inner, _) -> files |> List.exists (fun file -> file.Name = inner))

            match chosen with
            | None when Archive.isOldTorch files -> Error(WeightsErrors.tooOld kind path)
            | None -> Error(WeightsErrors.choices path files)
            | Some(inner, key) ->
                let place = files |> List.findIndexBack (fun file -> file.Name = inner)

                reading (Archive.read kind (Some place) inflation)
                |> Result.bind (fun (_, contents) ->
                    match contents with
                    | Some bytes -> Ok({ path with Inner = inner; Key = key }, bytes)
                    | None -> Error(WeightsErrors.choices path files)
                )
        )

    // ---- files

    let private parseFile role (inflation: Inflation) (path: WeightsPath) (bytes: byte[]) : Result<WeightsFile, Error> =
        if TorchFile.isTorch bytes then
            TorchFile.parseAt path inflation bytes
            |> Result.bind (fun file -> create role path file.Format (TorchEntry.values file.Root) file.Root)
        elif isSafetensors bytes then
            Safetensors.parse (WeightsPath.text path) bytes
            |> Result.bind (fun file -> create role path safetensors file.Metadata (TorchEntry.ofTensors file.Tensors))
        else
            Error(WeightsErrors.unknown path bytes)

    /// The kind of archive that bytes are. A zip file may be one of PyTorch's.
    let private archiveOf (bytes: byte[]) : Archive.Kind option =
        match Archive.kindOf bytes with
        | Some Archive.Kind.Zip when not (Archive.isOfFiles bytes) -> None
        | kind -> kind

    let private parseInside role kind (length: int64) (path: WeightsPath) openIt : Result<WeightsFile, Error> =
        let inflation = Inflation.ofFile length

        inside kind inflation path openIt
        |> Result.bind (fun (path, bytes) ->
            parseFile role inflation path bytes
            |> Result.map (fun file -> { file with Format = $"{file.Format} in {Archive.describe kind}" })
        )

    let private parseAs role (path: WeightsPath) (bytes: byte[]) : Result<WeightsFile, Error> =
        match archiveOf bytes with
        | Some kind ->
            parseInside
                role
                kind
                bytes.LongLength
                path
                (fun () -> new MemoryStream(bytes, 0, bytes.Length, false, true))
        | None when path.Inner <> "" -> Error(WeightsErrors.notArchive path)
        | None -> parseFile role (Inflation.ofFile bytes.LongLength) path bytes

    /// Parses the bytes of a file; `where` is its path in messages.
    let parse (where: string) (bytes: byte[]) : Result<WeightsFile, Error> =
        parseAs WeightsRole.Any { File = where; Inner = ""; Key = "" } bytes

    /// A file by how it is read: as a stream, or in memory.
    let private openFile (path: WeightsPath) : Result<Choice<Archive.Kind, byte[]>, Error> =
        startOf path
        |> Result.bind (fun start ->
            match Archive.kindOf start with
            | Some(Archive.Kind.Tar | Archive.Kind.Gzip as kind) -> Ok(Choice1Of2 kind)
            | _ -> Files.read path.File |> Result.map Choice2Of2
        )

    let private parseOpened role (path: WeightsPath) (file: Choice<Archive.Kind, byte[]>) : Result<WeightsFile, Error> =
        match file with
        | Choice1Of2 kind -> parseInside role kind (FileInfo path.File).Length path (fun () -> File.OpenRead path.File)
        | Choice2Of2 bytes -> parseAs role path bytes

    /// The files of an archive of several of weights; None for any other file, and where one is named.
    let private several
        (path: WeightsPath)
        (file: Choice<Archive.Kind, byte[]>)
        : Result<ArchiveFile list option, Error> =
        let listed kind (openIt: unit -> Stream) =
            ofStream
                path
                (fun () ->
                    use stream = openIt ()
                    let files = Archive.list kind stream |> Archive.unpacked
                    if (List.filter Archive.isWeights files).Length > 1 then Some files else None
                )

        match file with
        | _ when path.Inner <> "" || path.Key <> "" -> Ok None
        | Choice1Of2 kind -> listed kind (fun () -> File.OpenRead path.File)
        | Choice2Of2 bytes ->
            match archiveOf bytes with
            | None -> Ok None
            | Some kind -> listed kind (fun () -> new MemoryStream(bytes, 0, bytes.Length, false, true))

    /// Reads weights in a role: a file of up to 2 GB, or one in a larger tar archive.
    let readAs (role: WeightsRole) (path: WeightsPath) : Result<WeightsFile, Error> =
        openFile path |> Result.bind (parseOpened role path)

    /// Reads weights, or lists the archive of several files of weights of which the path names none. The file is read once.
    let contents (path: WeightsPath) : Result<WeightsContents, Error> =
        openFile path
        |> Result.bind (fun file ->
            several path file
            |> Result.bind (fun files ->
                match files with
                | Some files -> Ok(Several files)
                | None -> parseOpened WeightsRole.Any path file |> Result.map OneFile
            )
        )

    /// Reads the weights that a path names: "FILE", "FILE:INNER" in an archive, "FILE#KEY" of several.
    let read (path: string) : Result<WeightsFile, Error> = readAs WeightsRole.Any (WeightsPath.parse path)

    // ---- for a model

    /// Returns the file's weights that fit the expected names best.
    let find (expected: Weights.Expected list) (file: WeightsFile) : StateDict =
        file.Find(Some [ for e in expected -> e.Name ]) |> Option.defaultValue file.Found

    /// What a user should know of a choice: which weights were taken, and where others are.
    let notes (found: StateDict) (file: WeightsFile) : string list =
        match StateDict.rivals found with
        | [] -> []
        | rivals ->
            let first = WeightsPath.withKey (fst rivals.Head) file.Source
            let taken = StateDict.describe { found with Aside = 0 }
            let taken = if taken = "" then "those of the file itself" else taken

            let listed =
                rivals
                |> List.truncate 4
                |> List.map (fun (key, count) -> $"'{Files.printable key}' ({count} tensors)")
                |> String.concat ", "

            let more = if rivals.Length > 4 then $" and {rivals.Length - 4} more" else ""

            [ $"weights taken {taken}; also there: {listed}{more}; choose with {Files.printable first}" ]

    let private notFinite (what: string) (file: WeightsFile) (names: string list) : Error =
        let listed = names |> List.truncate 8 |> String.concat ", "
        let more = if names.Length > 8 then $" and {names.Length - 8} more" else ""

        Error.create
            Damaged
            $"tensors for {what} hold numbers that are not finite: {listed}{more}"
            file.Path
            "use weights from before the training diverged"

    let private checkFinite (what: string) (file: WeightsFile) (tree: Tree) : Result<Tree, Error> =
        match Tree.toList tree |> List.filter (snd >> Weights.isFinite >> not) |> List.map fst with
        | [] -> Ok tree
        | names ->
            Tree.free tree
            Error(notFinite what file names)

    /// Loads weights that were found in the file.
    let internal load what (device: Device) (expected: Weights.Expected list) (found: StateDict) (file: WeightsFile) =
        found.Tensors
        |> Weights.adapt expected
        |> Weights.fit what file.Path device expected
        |> Result.bind (checkFinite what file)

    /// <summary>Loads the file's weights for a model, as a tree in the model's order.</summary>
    /// <param name="what">What the weights are for, in words: "model resnet20".</param>
    /// <param name="device">The device of the loaded tensors.</param>
    /// <param name="expected">What the model declares.</param>
    /// <param name="file">The file; its numbers are converted to the expected types.</param>
    /// <returns>
    /// The tree, or an error that lists all missing, unexpected and mis-shaped tensors, or all non-finite ones.
    /// </returns>
    let fit
        (what: string)
        (device: Device)
        (expected: Weights.Expected list)
        (file: WeightsFile)
        : Result<Tree, Error> =
        load what device expected (find expected file) file
