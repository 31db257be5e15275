namespace Ctkd.Fs

open System

/// A PyTorch file: its format in words, and its contents.
[<ReferenceEquality>]
type TorchFile = { Format: string; Root: TorchEntry }

/// Reads PyTorch files (.pt, .pth, .th, .ckpt) as data and executes nothing. Tensors, numpy arrays, numbers, texts and
/// containers are read; of whole modules the state_dict; objects of any other class are inert data with a name.
[<RequireQualifiedAccess>]
module TorchFile =
    let private refused (path: WeightsPath) (reason: string) (next: string) : Error =
        let what =
            $"'{Files.printable (WeightsPath.fileName path)}' is refused as a PyTorch file: {Files.printable reason}"

        Error.create Damaged what (WeightsPath.text path) next

    let private again =
        "fetch the file again, or save it again with torch.save; " + "do not open it with Python unless you trust it"

    let private onlyWeights (path: WeightsPath) : string =
        let name = WeightsPath.fileName path

        $"if you trust the file all the same, {WeightsPath.unpacking path}write its weights alone with PyTorch: "
        + $"torch.save(torch.load('{name}', weights_only=False)['model'], 'weights.pt'), of a whole module "
        + $"torch.save(torch.load('{name}', weights_only=False).state_dict(), 'weights.pt')"

    let private isZip (bytes: byte[]) : bool = ReadOnlySpan(bytes).StartsWith(ReadOnlySpan TorchZip.signature)

    /// Whether the bytes begin like a PyTorch file of any version.
    let isTorch (bytes: byte[]) : bool = isZip bytes || TorchLegacy.isLegacy bytes

    let private parseBytes (inflation: Inflation) (bytes: byte[]) : TorchFile =
        if isZip bytes then
            { Format = "PyTorch (zip)"; Root = TorchZip.parse inflation bytes }
        elif TorchLegacy.isLegacy bytes then
            { Format = "PyTorch (before 1.6)"; Root = TorchLegacy.parse bytes }
        else
            PickleInput.refuse "it does not begin as one"

    /// As `parse`, of a file that may be in an archive, with what may be decompressed.
    let internal parseAt (path: WeightsPath) (inflation: Inflation) (bytes: byte[]) : Result<TorchFile, Error> =
        let refuse reason next : Result<TorchFile, Error> = Error(refused path reason next)

        try
            Ok(parseBytes inflation bytes)
        with
        | Unpicklable reason -> refuse reason again
        | Convertible(reason, code) ->
            let code = code.Replace("FILE", $"'{WeightsPath.fileName path}'")
            refuse reason (WeightsPath.unpacking path + "write its weights again with PyTorch: " + code)
        | Forbidden name -> refuse $"it asks for {name}, which runs commands when Python opens it" (onlyWeights path)

    /// <summary>Parses a file in zip format or in the format before PyTorch 1.6.</summary>
    /// <param name="where">The path in messages.</param>
    /// <param name="bytes">The contents; tensors may be views of them. Deflated parts may give 32 times as many, or 40 MB.</param>
    /// <returns>
    /// The file, or a <c>Damaged</c> error with its reason: truncated, inconsistent, too deep, too large in memory, or
    /// with a forbidden name.
    /// </returns>
    let parse (where: string) (bytes: byte[]) : Result<TorchFile, Error> =
        parseAt { File = where; Inner = ""; Key = "" } (Inflation.ofFile bytes.LongLength) bytes

    /// Reads a PyTorch file of up to 2 GB.
    let read (path: string) : Result<TorchFile, Error> = Files.read path |> Result.bind (parse path)

    /// Encodes tensors as a state_dict in PyTorch's zip format. A wrong size, type or name is a bug and raises an
    /// exception.
    let encode (tensors: StoredTensor list) : byte[] = Files.join (TorchWriter.pieces tensors)

    /// Writes tensors as a state_dict in PyTorch's zip format, for `torch.load(path, weights_only=True)`. Atomic: on
    /// any failure the old file stays intact. Equal tensors give equal bytes.
    let write (path: string) (tensors: StoredTensor list) : Result<unit, Error> =
        Files.replaceByParts path (TorchWriter.pieces tensors)
