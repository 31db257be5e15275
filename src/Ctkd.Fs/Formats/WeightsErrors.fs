namespace Ctkd.Fs

open System
open System.IO

/// Why files of weights are not read, and what to do.
[<RequireQualifiedAccess>]
module internal WeightsErrors =
    /// A file that is damaged, or is something else.
    let damaged (path: WeightsPath) (reason: string) (next: string) : Error =
        Error.create Damaged $"'{Files.printable (WeightsPath.fileName path)}' {reason}" (WeightsPath.text path) next

    /// An archive that cannot be gone through.
    let damagedArchive (path: WeightsPath) (reason: string) (next: string) : Error = {
        damaged { path with Inner = "" } reason next with
            Where = WeightsPath.text path
    }

    /// Python's code that opens the file, in words: only for one who trusts it.
    let private ifTrusted (path: WeightsPath) : string = "if you trust it, " + WeightsPath.unpacking path

    /// The file's name in Python's code.
    let private quoted (path: WeightsPath) : string = $"'{WeightsPath.fileName path}'"

    // ---- identification

    let private beginsWith (beginning: string) (bytes: byte[]) : bool =
        let start = Text.Encoding.Latin1.GetString(bytes, 0, min bytes.Length 64).TrimStart()
        start.StartsWith(beginning, StringComparison.OrdinalIgnoreCase)

    /// Files often mistaken for weights: how they begin, what they are, and what to do.
    let private mistaken: (string * string * string) list = [
        "<", "is a web page, and no weights", "fetch the file itself: its address may lead to a page about it"
        "version https://git-lfs",
        "is a note of git-lfs about a file, and not the file",
        "fetch the file itself with: git lfs pull"
        "\x80",
        "is a pickle, and none that torch.save wrote",
        "TRUST write it again with Python: torch.save(pickle.load(open(FILE, 'rb')), 'weights.pt')"
        "7z\188\175", "is a 7z archive", "unpack it, and give a file in it"
        "Rar!", "is a rar archive", "unpack it, and give a file in it"
        "BZh", "is compressed by bzip2", "decompress it: bunzip2"
        "\253" + "7zXZ", "is compressed by xz", "decompress it: unxz"
        "\040\181\047\253", "is compressed by zstd", "decompress it: unzstd"
        "\137HDF", "is an HDF5 file, of Keras perhaps", "convert it to safetensors"
    ]

    /// A file of no known format, with what it is where that is known.
    let unknown (path: WeightsPath) (bytes: byte[]) : Error =
        match mistaken |> List.tryFind (fun (beginning, _, _) -> beginsWith beginning bytes) with
        | Some(_, what, next) -> damaged path what (next.Replace("TRUST ", ifTrusted path).Replace("FILE", quoted path))
        | None ->
            damaged
                path
                "is neither a safetensors file nor a PyTorch file"
                "give a file that safetensors or torch.save wrote, or fetch it again"

    /// A file in which no state_dict was found, with what it holds.
    let nothingFound (path: WeightsPath) (root: TorchEntry) : Error =
        let entries = TorchEntry.entries root |> List.truncate 8

        let described (name: string, entry: TorchEntry) =
            match entry with
            | TorchEntry.Object(kind, _) -> $"'{name}' ({kind})"
            | _ -> $"'{name}'"

        let kind =
            match root with
            | TorchEntry.Object(kind, _) -> $"an object of the class {kind} with "
            | _ -> ""

        let names = entries |> List.map described |> String.concat ", "
        let holds = if names = "" then "nothing by name" else Files.printable (kind + names)
        let file = quoted path

        damaged
            path
            $"has no tensors where a state_dict would be; it holds {holds}"
            (ifTrusted path
             + "write its weights alone with PyTorch: "
             + $"torch.save(torch.load({file}, weights_only=False).state_dict(), 'weights.pt') of a module, "
             + $"torch.save(torch.load({file}, weights_only=False)['KEY'], 'weights.pt') of a dictionary")

    /// A key that a file has not, with those that it has.
    let unknownKey (path: WeightsPath) (keys: string list) : Error =
        let missing = $"has no '{Files.printable path.Key}'"

        match keys with
        | [] ->
            damaged
                path
                $"{missing}, and no group of tensors at all"
                ("leave out the key: " + Files.printable (WeightsPath.withKey "" path))
        | keys ->
            let near = Error.nearest keys path.Key
            let listed = near @ List.except near keys |> List.truncate 8 |> List.map Files.printable

            let more = if keys.Length > 8 then $" and {keys.Length - 8} more" else ""
            let listed = listed |> List.map (fun key -> $"'{key}'") |> String.concat ", "

            {
                damaged
                    path
                    $"{missing}; it holds {listed}{more}"
                    $"choose one of them, such as {Files.printable (WeightsPath.withKey near.Head path)}" with
                    Kind = Usage
            }

    /// An archive of several files, or without the one that is asked for, with those that it has.
    let choices (path: WeightsPath) (files: ArchiveFile list) : Error =
        let name = Path.GetFileName path.File
        let weights = Archive.unpacked files |> List.filter Archive.isWeights |> List.map _.Name

        match weights with
        | [] ->
            damagedArchive
                path
                "is an archive without files of weights"
                "give a file that safetensors or torch.save wrote"
        | _ ->
            let near = Error.nearest weights path.Inner
            let ordered = if path.Inner = "" then weights else near @ List.except near weights

            let listed =
                ordered |> List.truncate 8 |> List.map (fun name -> "\n  - " + Files.printable name) |> String.concat ""

            let more = if weights.Length > 8 then $"\n  - and {weights.Length - 8} more" else ""

            let what =
                if path.Inner = "" then
                    $"'{name}' is an archive of {weights.Length} files of weights"
                else
                    $"'{name}' has no file '{Files.printable path.Inner}'; it has {weights.Length} files of weights"

            Error.create
                (if path.Inner = "" then Damaged else Usage)
                $"{what}:{listed}{more}"
                (WeightsPath.text path)
                $"read one of them: {Files.printable (WeightsPath.within ordered.Head path)}"

    /// A file of PyTorch before 0.2, itself or compressed.
    let tooOld (kind: Archive.Kind) (path: WeightsPath) : Error =
        let name = string (Path.GetFileName path.File)

        let before, name =
            match kind with
            | Archive.Kind.Gzip when name.EndsWith(".gz", StringComparison.Ordinal) ->
                $"decompress it (gunzip {name}), and ", name.Substring(0, name.Length - 3)
            | Archive.Kind.Gzip -> $"decompress it (gunzip < {name} > old.pth), and ", "old.pth"
            | Archive.Kind.Tar
            | Archive.Kind.Zip -> "", name

        damagedArchive
            path
            "has the tar format of PyTorch before 0.2, which is not read"
            ($"if you trust it, {before}write it again with PyTorch: "
             + $"torch.save(torch.load('{name}', weights_only=False), 'weights.pt')")

    /// A file in a file that is no archive.
    let notArchive (path: WeightsPath) : Error =
        Error.create
            Usage
            $"'{Path.GetFileName path.File}' is no archive, so it has no file '{Files.printable path.Inner}' inside"
            (WeightsPath.text path)
            $"give the file alone: {path.File}"
