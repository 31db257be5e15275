namespace Ctkd.Fs

open System
open System.IO

/// A file of weights in any supported format.
[<ReferenceEquality>]
type WeightsFile = {
    /// As given, with the path inside an archive and the key.
    Path: string
    /// "safetensors", "PyTorch (zip)" or "PyTorch (before 1.6)", and the archive around it.
    Format: string
    IsSafetensors: bool
    /// Numbers and texts beside the tensors, such as the epoch.
    Metadata: (string * string) list
    /// All contents of the file.
    Root: TorchEntry
    /// The key that was asked for; empty for none.
    Key: string
    /// Finds the weights for names that are expected, or without them.
    Find: string list option -> StateDict option
    /// The weights in file order, and how they were found.
    Found: StateDict
}

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
            | None -> Error(WeightsErrors.nothingFound (WeightsPath.text path) within)
            | Some found ->
                Ok {
                    Path = WeightsPath.text path
                    Format = format
                    IsSafetensors = (format = safetensors)
                    Metadata = metadata
                    Root = root
                    Key = path.Key
                    Find = find
                    Found = found
                }
        )

    // ---- archives

    let private ofStream (where: string) (body: unit -> 'T) : Result<'T, Error> =
        try
            Ok(body ())
        with
        | Unpicklable reason ->
            Error(WeightsErrors.damaged where $"is no whole archive: {Files.printable reason}" "fetch the file again")
        | :? IOException as problem ->
            Error(
                WeightsErrors.damaged
                    where
                    $"cannot be read: {problem.Message}"
                    "check the disk, or copy the file again"
            )

    /// The path and the contents of the file in an archive that the path names, or of the only one of weights.
    let private inside
        (kind: Archive.Kind)
        (path: WeightsPath)
        (openIt: unit -> Stream)
        : Result<WeightsPath * byte[], Error> =
        let reading body =
            ofStream
                (WeightsPath.text path)
                (fun () ->
                    use stream = openIt ()
                    body stream
                )

        reading (Archive.list kind)
        |> Result.bind (fun files ->
            let weights = files |> List.filter Archive.isWeights

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
            | None when Archive.isOldTorch files -> Error(WeightsErrors.tooOld (WeightsPath.text path))
            | None -> Error(WeightsErrors.choices path files)
            | Some(inner, key) ->
                reading (Archive.read kind (fun file -> file.Name = inner))
                |> Result.bind (fun (_, contents) ->
                    match contents with
                    | Some bytes -> Ok({ path with Inner = inner; Key = key }, bytes)
                    | None -> Error(WeightsErrors.choices path files)
                )
        )

    // ---- files

    let private parseFile role (path: WeightsPath) (bytes: byte[]) : Result<WeightsFile, Error> =
        let where = WeightsPath.text path

        if TorchFile.isTorch bytes then
            TorchFile.parse where bytes
            |> Result.bind (fun file -> create role path file.Format (TorchEntry.values file.Root) file.Root)
        elif isSafetensors bytes then
            Safetensors.parse where bytes
            |> Result.bind (fun file -> create role path safetensors file.Metadata (TorchEntry.ofTensors file.Tensors))
        else
            Error(WeightsErrors.unknown where bytes)

    /// The kind of archive that bytes are. A zip file may be one of PyTorch's.
    let private archiveOf (bytes: byte[]) : Archive.Kind option =
        match Archive.kindOf bytes with
        | Some Archive.Kind.Zip when not (Archive.isOfFiles bytes) -> None
        | kind -> kind

    let private parseInside role kind (path: WeightsPath) (openIt: unit -> Stream) : Result<WeightsFile, Error> =
        inside kind path openIt
        |> Result.bind (fun (path, bytes) ->
            parseFile role path bytes
            |> Result.map (fun file -> { file with Format = $"{file.Format} in {Archive.describe kind}" })
        )

    let private parseAs role (path: WeightsPath) (bytes: byte[]) : Result<WeightsFile, Error> =
        match archiveOf bytes with
        | Some kind -> parseInside role kind path (fun () -> new MemoryStream(bytes, false))
        | None when path.Inner <> "" -> Error(WeightsErrors.notArchive path)
        | None -> parseFile role path bytes

    /// The files in an archive that holds several of weights, or None for any other file.
    let archived (path: string) : Result<ArchiveFile list option, Error> =
        let isWhole (path: WeightsPath) = path.Inner = "" && File.Exists path.File

        match WeightsPath.parse path with
        | parsed when not (isWhole parsed) -> Ok None
        | parsed ->
            Files.openRead parsed.File
            |> Result.bind (fun stream ->
                use stream = stream
                let start = Array.zeroCreate<byte> Archive.sniffed
                let count = stream.ReadAtLeast(Span start, start.Length, false)

                stream.Position <- 0L

                let several (files: ArchiveFile list) =
                    let weights = List.filter Archive.isWeights files
                    if weights.Length > 1 then Some files else None

                let listed kind = ofStream path (fun () -> Archive.list kind stream) |> Result.map several

                match Archive.kindOf start[.. count - 1] with
                | None -> Ok None
                | Some Archive.Kind.Zip ->
                    Files.read parsed.File
                    |> Result.bind (fun bytes -> if Archive.isOfFiles bytes then listed Archive.Kind.Zip else Ok None)
                | Some kind -> listed kind
            )

    /// Parses the bytes of a file; `where` is its path in messages.
    let parse (where: string) (bytes: byte[]) : Result<WeightsFile, Error> =
        parseAs WeightsRole.Any { File = where; Inner = ""; Key = "" } bytes

    /// Reads weights in a role: a file of up to 2 GB, or one in a larger tar archive.
    let readAs (role: WeightsRole) (path: WeightsPath) : Result<WeightsFile, Error> =
        let start =
            Files.openRead path.File
            |> Result.map (fun stream ->
                use stream = stream
                let start = Array.zeroCreate<byte> Archive.sniffed
                start[.. stream.ReadAtLeast(Span start, start.Length, false) - 1]
            )

        match start with
        | Error error -> Error error
        | Ok start ->
            match Archive.kindOf start with
            | Some(Archive.Kind.Tar | Archive.Kind.Gzip as kind) ->
                parseInside role kind path (fun () -> File.OpenRead path.File)
            | _ -> Files.read path.File |> Result.bind (parseAs role path)

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
            let name = Path.GetFileName((WeightsPath.parse file.Path).File)
            let taken = StateDict.describe { found with Aside = 0 }
            let taken = if taken = "" then "those of the file itself" else taken

            let listed =
                rivals
                |> List.truncate 4
                |> List.map (fun (key, count) -> $"'{Files.printable key}' ({count} tensors)")
                |> String.concat ", "

            let more = if rivals.Length > 4 then $" and {rivals.Length - 4} more" else ""

            [
                $"weights taken {taken}; also there: {listed}{more}; choose with {name}#{Files.printable (fst rivals.Head)}"
            ]

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
