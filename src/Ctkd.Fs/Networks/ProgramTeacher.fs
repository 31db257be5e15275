namespace Ctkd.Fs

open System
open System.IO
open System.Runtime.InteropServices
open System.Text
open Ctkd.Engine
open Ctkd.Onnx
open FsToolkit.ErrorHandling
open TorchSharp

/// Networks from files that hold programs: TorchScript, run by libtorch, and ONNX, run by ONNX Runtime.
[<RequireQualifiedAccess>]
module ProgramTeacher =

    /// What a network shows for a batch.
    type private Run = Tensor -> Outputs

    let private ofLogits (logits: Tensor) : Outputs = { Features = []; Pooled = logits; Logits = logits }

    let private nameOf (path: string) : string = string (Path.GetFileName path)

    let private refuse (path: string) (what: string) (next: string) : Result<'T, Error> =
        Error.fail Mismatch $"the network in this file cannot teach: {Files.printable what}" path next

    /// A model of a way to run, whose shapes are found by running two black images.
    let private described (path: string) (height: int) (width: int) (device: Device) (run: Run) : Result<Whole, Error> =
        let sizes (x: Tensor) = Tensor.shape x |> Array.map int |> List.ofArray

        let shown =
            Tensor.scoped (fun () ->
                Autograd.noGrad (fun () ->
                    let outputs = Tensor.zeros DType.Float32 device [| 2L; 3L; int64 height; int64 width |] |> run
                    let hasPooled = not (obj.ReferenceEquals(outputs.Pooled, outputs.Logits))
                    let maps = outputs.Features |> List.map (sizes >> List.tail)
                    sizes outputs.Logits, (if hasPooled then Tensor.size 1 outputs.Pooled else 0), maps
                )
            )

        match shown with
        | [ 2; classes ], pooled, maps when classes >= 2 ->
            Ok {
                Name = nameOf path
                Declares = []
                // A program computes in the type of its weights.
                Forward = fun _ _ images -> run (Tensor.toType DType.Float32 images)
                Maps = fun _ -> maps
                Pooled = pooled
                Shares = []
                Classes = classes
            }
        | logits, _, _ ->
            refuse
                path
                $"for images [2, 3, {height}, {width}] it gives %A{logits}, and logits are [2, classes]"
                "export it with one row of logits for each image of a batch of any size"

    // ---- TorchScript

    /// What a TorchScript network returns: logits, or several tensors of which the logits are the first, or by name.
    let private outputsOf (path: string) (value: objnull) : Outputs =
        let several (tensors: (string * Tensor) list) =
            let named name = tensors |> List.tryFind (fun (known, _) -> known = name) |> Option.map snd
            let maps = tensors |> List.map snd |> List.filter (fun x -> Tensor.rank x = 4)
            let rows = tensors |> List.filter (fun (_, x) -> Tensor.rank x = 2) |> List.map snd

            match named "logits" |> Option.orElse (List.tryHead rows) with
            | None ->
                Error.create Mismatch "the network returns no logits [batch, classes]" path "return them first"
                |> Error.raise
            | Some logits ->
                let others = rows |> List.filter (fun x -> not (obj.ReferenceEquals(x, logits)))
                let pooled = named "pooled" |> Option.orElse (List.tryHead others)
                { Features = maps; Pooled = defaultArg pooled logits; Logits = logits }

        match value with
        | :? Tensor as logits -> ofLogits logits
        | :? (Tensor[]) as tensors -> tensors |> Seq.map (fun x -> "", x) |> List.ofSeq |> several
        | :? Collections.IDictionary as entries ->
            [
                for entry in Seq.cast<Collections.DictionaryEntry> entries do
                    match entry.Value with
                    | :? Tensor as x -> string entry.Key, x
                    | _ -> ()
            ]
            |> several
        | :? Collections.IEnumerable as items ->
            items |> Seq.cast<obj> |> Seq.choose tryUnbox<Tensor> |> Seq.map (fun x -> "", x) |> List.ofSeq |> several
        | :? Runtime.CompilerServices.ITuple as items ->
            [ for i in 0 .. items.Length - 1 -> items[i] ]
            |> List.choose tryUnbox<Tensor>
            |> List.map (fun x -> "", x)
            |> several
        | _ ->
            Error.create Mismatch "the network returns no tensor" path "return logits [batch, classes]" |> Error.raise

    let private traceback = "TorchScript interpreter"

    /// The cause in libtorch's message: the last line of a traceback of the program, else what stands before the C++ backtrace.
    let private brief (message: string) : string =
        let message = (message.Split "Exception raised from")[0]

        let cause =
            if message.Contains(traceback, StringComparison.Ordinal) then
                RegularExpressions.Regex.Matches(message, @"[A-Z]\w*(Error|Exception): ") |> Seq.tryLast
            else
                None

        match cause with
        | Some cause -> message.Substring(cause.Index).Trim()
        | None -> message.Trim()

    let private write = "write it with torch.jit.save of PyTorch 2.10 or an earlier version"

    let private returnsNothing = "it returns neither a tensor nor a tuple of tensors"

    /// What to do about a program that cannot be read or run.
    let private remedy (height: int) (width: int) (message: string) : string =
        let says (text: string) = message.Contains(text, StringComparison.OrdinalIgnoreCase)

        if says returnsNothing then
            "return logits, or (logits, maps ..., pooled)"
        elif says traceback && (says "shape" || says "size" || says "dimension") then
            $"it was given images of {height} x {width}: --teacher-size names another size"
        elif says TorchScriptCheck.Unreadable || says "what():" && not (says traceback) then
            write
        else
            $"see that it runs in PyTorch: torch.jit.load(FILE)(torch.zeros(2, 3, {height}, {width}))"

    let private torchScript path height width (device: Device) : Result<Whole * string, Error> =
        result {
            let! bytes = Files.read path
            do! NetworkFile.checkTorchScript path bytes
            Natives.Load() |> ignore
            let hash = NetworkFile.hash bytes

            match TorchScriptCheck.Problem(path, hash, height, width) with
            | null -> ()
            | problem -> return! refuse path (brief problem) (remedy height width problem)

            let! network =
                try
                    let network = torch.jit.load (bytes, "cpu")
                    network.eval ()
                    if device <> Device.Cpu then network.``to`` (device.ToTorch()) |> ignore
                    Ok network
                with
                | :? ExternalException
                | :? InvalidOperationException as problem ->
                    Error.fail
                        Damaged
                        $"libtorch cannot load this TorchScript file: {brief problem.Message |> Files.printable}"
                        path
                        write

            let! whole =
                try
                    described
                        path
                        height
                        width
                        device
                        (fun images -> network.forward [| box images |] |> outputsOf path)
                with
                | CtkdException error -> Result.Error error
                // TorchSharp hands on tensors and tuples of tensors.
                | :? ArgumentOutOfRangeException -> refuse path returnsNothing (remedy height width returnsNothing)
                | :? ExternalException
                | :? ArgumentException
                | :? InvalidOperationException
                | :? NotImplementedException as problem ->
                    refuse path (brief problem.Message) (remedy height width problem.Message)

            return whole, hash
        }

    // ---- ONNX

    /// Runs a network on images that are a batch of a size that it takes: a row of the result for each.
    let private onnxRows (path: string) (network: OnnxNetwork) (pixels: float32[]) (shape: int[]) : float32[] =
        let struct (values, given) = network.Run(pixels, shape)

        if given.Length > 0 && given[0] = shape[0] then
            values
        else
            Error.create
                Mismatch
                $"the network in this file cannot teach: for %d{shape[0]} images it gives '{network.Output}' %A{List.ofArray given}, and logits are [images, classes]"
                path
                "export it with one row of logits for each image of a batch of any size"
            |> Error.raise

    /// The output's rows for images: [N, D].
    let internal runOnnx (path: string) (network: OnnxNetwork) (device: Device) (images: Tensor) : Tensor =
        let images = if network.ChannelsLast then Tensor.permute [| 0L; 2L; 3L; 1L |] images else images
        let shape = Tensor.shape images |> Array.map int
        let count, rest = shape[0], Array.skip 1 shape
        let pixels = Tensor.toSingles images
        let size = Array.fold (*) 1 rest

        let rows =
            if network.Batch = 0 || network.Batch = count then
                onnxRows path network pixels shape
            else
                // Batches of the one size that it takes; the last one is filled up.
                let batch = network.Batch

                [|
                    for start in 0..batch .. count - 1 do
                        let own = min batch (count - start)
                        let part = Array.zeroCreate<float32>(batch * size)
                        Array.blit pixels (start * size) part 0 (own * size)
                        let values = onnxRows path network part (Array.append [| batch |] rest)
                        values[.. values.Length / batch * own - 1]
                |]
                |> Array.concat

        Tensor.ofSingles [ count; rows.Length / count ] rows |> Tensor.toDevice device

    let private refusedOnnx (path: string) (problem: exn) (next: string) : Result<'T, Error> =
        Error.fail Mismatch $"ONNX Runtime cannot run this file: {Files.printable problem.Message}" path next

    /// SHA-256 of a file and of those beside it that hold its tensors.
    let private onnxHash (path: string) : Result<string, Error> =
        result {
            let! own = NetworkFile.hashOf path

            let! beside =
                try
                    ExternalFiles.Of path |> List.ofSeq |> Ok
                with :? OnnxRefusedException as problem ->
                    refuse path problem.Message "save it again, with its tensors in files in its own folder"

            let folder = string (Path.GetDirectoryName(Path.GetFullPath path))

            let! hashes =
                beside
                |> List.traverseResultM (fun name ->
                    NetworkFile.hashOf (Path.Combine(folder, name)) |> Result.map (fun hash -> $"{hash} {name}")
                )

            return
                if hashes.IsEmpty then
                    own
                else
                    own :: hashes |> String.concat "\n" |> Encoding.UTF8.GetBytes |> NetworkFile.hash
        }

    /// Opens the network of an ONNX file, whose output is a row for each image, or images; its hash comes first.
    let internal openOnnx
        say
        (device: Device)
        (givesImages: bool)
        (path: string)
        : Result<string * OnnxNetwork, Error> =
        result {
            let! hash = onnxHash path
            let onCuda = device <> Device.Cpu && OnnxNetwork.HasCuda

            if device <> Device.Cpu && not onCuda then
                say
                    "warning: the installed ONNX Runtime has no CUDA: the teacher runs on the processor; for CUDA add the package Microsoft.ML.OnnxRuntime.Gpu"

            return!
                try
                    let index = if onCuda then device.Index else -1
                    Ok(hash, new OnnxNetwork(path, Engine.threads (), index, givesImages))
                with :? OnnxRefusedException as problem ->
                    let output = if givesImages then "images [N, C, H, W]" else "logits [N, classes]"

                    refusedOnnx
                        path
                        problem
                        $"give a network with one input, images [N, 3, H, W] in float32, and {output}"
        }

    /// The model of an opened network, for images of a size that it takes.
    let internal ofOnnx path height width (device: Device) (network: OnnxNetwork) : Result<Whole, Error> =
        try
            described path height width device (runOnnx path network device >> ofLogits)
        with
        | CtkdException error -> Result.Error error
        | :? OnnxRefusedException as problem ->
            refusedOnnx
                path
                problem
                $"it was given images of {height} x {width}: another size is named by --teacher-size"

    let private onnx (say: string -> unit) path height width (device: Device) : Result<Whole * string, Error> =
        result {
            let! hash, network = openOnnx say device false path

            let fits (wanted: int) (there: int) = wanted = 0 || wanted = there

            if not (fits network.Height height && fits network.Width width) then
                let size =
                    if network.Height = network.Width then
                        network.Height
                    else
                        max network.Height network.Width

                network.Dispose()

                return!
                    refuse
                        path
                        $"it takes images of {network.Height} x {network.Width}, and gets {height} x {width}"
                        $"add --teacher-size {size}: the images are then resized for it"

            say $"{nameOf path}: {network.Describe()}"

            let! whole = ofOnnx path height width device network
            return whole, hash
        }

    /// <summary>Loads a network from a file.</summary>
    /// <param name="say">Receives what a user should know: that a TorchScript file is a program, what an ONNX file takes.</param>
    /// <param name="device">Where it runs.</param>
    /// <param name="height">Height of the images that it will see.</param>
    /// <param name="width">Their width.</param>
    /// <param name="kind">The kind of the file.</param>
    /// <param name="path">The file.</param>
    /// <returns>The network and the SHA-256 of its file, or why it cannot be used.</returns>
    let load
        say
        (device: Device)
        (height: int)
        (width: int)
        (kind: NetworkFile)
        (path: string)
        : Result<Whole * string, Error> =
        match kind with
        | NetworkFile.TorchScript ->
            say
                $"{nameOf path} is a TorchScript program, which libtorch runs: load only files from people that you trust"

            torchScript path height width device
        | NetworkFile.Onnx -> onnx say path height width device
