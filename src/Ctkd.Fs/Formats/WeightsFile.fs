namespace Ctkd.Fs

open System
open System.IO

/// A file of weights in any supported format.
[<ReferenceEquality>]
type WeightsFile = {
    Path: string
    /// "safetensors", "PyTorch (zip)" or "PyTorch (before 1.6)".
    Format: string
    IsSafetensors: bool
    /// Numbers and texts beside the tensors, such as the epoch.
    Metadata: (string * string) list
    /// All contents of the file.
    Root: TorchEntry
    /// The weights in file order, and how they were found.
    Found: StateDict
}

/// Reads files of weights: safetensors and PyTorch's, distinguished by contents, not by name.
[<RequireQualifiedAccess>]
module WeightsFile =

    let private damaged (where: string) (reason: string) (next: string) : Error =
        Error.create Damaged $"'{Path.GetFileName where}' {reason}" where next

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
        "\x80", "is a pickle, and none that torch.save wrote", "save the state_dict with torch.save"
        "\137HDF", "is an HDF5 file, of Keras perhaps", "convert it to safetensors"
    ]

    let private unknown (where: string) (bytes: byte[]) : Error =
        match mistaken |> List.tryFind (fun (beginning, _, _) -> beginsWith beginning bytes) with
        | Some(_, what, next) -> damaged where what next
        | None ->
            damaged
                where
                "is neither a safetensors file nor a PyTorch file"
                "give a file that safetensors or torch.save wrote, or fetch it again"

    let private isSafetensors (bytes: byte[]) : bool =
        bytes.Length > SafetensorsLayout.prefixLength && bytes[SafetensorsLayout.prefixLength] = byte '{'

    // ---- reading

    let private safetensors = "safetensors"

    let private nothingFound (where: string) (root: TorchEntry) : Error =
        let names =
            TorchEntry.entries root |> List.truncate 8 |> List.map (fst >> sprintf "'%s'") |> String.concat ", "

        let holds = if names = "" then "nothing by name" else Files.printable names

        damaged
            where
            $"has no tensors where a state_dict would be; it holds {holds}"
            "save the state_dict: torch.save(model.state_dict(), 'weights.pt')"

    let private assemble (where: string) format metadata (root: TorchEntry) : Result<WeightsFile, Error> =
        match StateDict.find None root with
        | None -> Error(nothingFound where root)
        | Some found ->
            Ok {
                Path = where
                Format = format
                IsSafetensors = (format = safetensors)
                Metadata = metadata
                Root = root
                Found = found
            }

    /// Parses the bytes of a file; `where` is its path in messages.
    let parse (where: string) (bytes: byte[]) : Result<WeightsFile, Error> =
        if TorchFile.isTorch bytes then
            TorchFile.parse where bytes
            |> Result.bind (fun file -> assemble where file.Format (TorchEntry.values file.Root) file.Root)
        elif isSafetensors bytes then
            Safetensors.parse where bytes
            |> Result.bind (fun file -> assemble where safetensors file.Metadata (TorchEntry.ofTensors file.Tensors))
        else
            Error(unknown where bytes)

    /// Reads a file of weights of up to 2 GB.
    let read (path: string) : Result<WeightsFile, Error> = Files.read path |> Result.bind (parse path)

    // ---- for a model

    /// Returns the file's weights that fit the expected names best.
    let find (expected: Weights.Expected list) (file: WeightsFile) : StateDict =
        StateDict.find (Some [ for e in expected -> e.Name ]) file.Root |> Option.defaultValue file.Found

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
        (find expected file).Tensors
        |> Weights.adapt expected
        |> Weights.fit what file.Path device expected
        |> Result.bind (checkFinite what file)
