namespace Ctkd.Fs

open System.Collections.Generic
open Ctkd.Engine
open TorchSharp

/// A module of TorchSharp: images [N, 3, H, W] to logits [N, classes].
type ImageModule = torch.nn.Module<torch.Tensor, torch.Tensor>

/// Students that are modules of TorchSharp. The module is only how they compute: their weights are a tree, as any model's,
/// that is trained, checkpointed and resumed.
[<RequireQualifiedAccess>]
module Student =

    /// The module's tensors by their names, and whether each is trained.
    let private tensors (network: torch.nn.Module) : (string * Tensor * bool) list =
        let parameters =
            network.named_parameters () |> Seq.map (fun struct (name, p) -> name, (p :> Tensor), p.requires_grad)

        let buffers = network.named_buffers () |> Seq.map (fun struct (name, b) -> name, b, false)
        Seq.append parameters buffers |> List.ofSeq

    let private refuse (name: string) (what: string) (next: string) : 'T =
        Error.create Usage $"the module {name} cannot be a student: {what}" "" next |> Error.raise

    /// Refuses what a tree cannot hold, and what the tree's tensors cannot take the place of.
    let private check (name: string) (network: torch.nn.Module) : unit =
        BoundTensors.NativePart network
        |> Option.ofObj
        |> Option.iter (fun part ->
            refuse
                name
                $"the parameters of {part} live in native code"
                "write that part of Linear, LayerNorm and torch.nn.functional.scaled_dot_product_attention"
        )

        // The average over all batches needs their number, which the module counts outside the tree: it would begin again.
        for struct (path, part) in network.named_modules () do
            match part with
            | :? Modules.NormBase as norm when not norm.momentum.HasValue && not (Seq.isEmpty (norm.named_buffers ())) ->
                let part = if path = "" then norm.GetName() else path

                refuse
                    name
                    $"'{part}' averages the statistics of all batches (momentum = null), which a resumed run cannot go on with"
                    "give it a momentum, such as 0.1"
            | _ -> ()

        for tensor, x, _ in tensors network do
            if not (Layer.isCounter tensor || x.is_floating_point ()) then
                refuse
                    name
                    $"its tensor '{tensor}' holds {x.dtype}, and what is trained and kept are floating-point numbers"
                    "keep it in a field that is not registered"

    /// The values that the module draws under a key, by name. Those of the latest key are kept: a tree asks for one tensor
    /// after the other.
    let private drawn (make: unit -> ImageModule) : uint64 -> Map<string, float32[]> =
        let latest = ref None

        fun key ->
            match latest.Value with
            | Some(known, values) when known = key -> values
            | _ ->
                let values =
                    Tensor.scoped (fun () ->
                        Engine.seed Device.Cpu key
                        use network = make ()
                        tensors network |> List.map (fun (name, x, _) -> name, Tensor.toSingles x) |> Map
                    )

                latest.Value <- Some(key, values)
                values

    /// The shapes [C; H; W] of the maps that a function shows for one image of a shape, found by running it.
    let private shapesOf (show: Tensor -> Outputs) : int list -> int list list =
        let known = Dictionary<int list, int list list>()

        fun input ->
            match known.TryGetValue input with
            | true, shapes -> shapes
            | _ ->
                let shapes =
                    Tensor.scoped (fun () ->
                        Autograd.noGrad (fun () ->
                            let image = 1 :: input |> List.map int64 |> Array.ofList
                            let outputs = show (Tensor.zeros DType.Float32 Device.Cpu image)

                            outputs.Features
                            |> List.map (Tensor.shape >> Array.skip 1 >> Array.map int >> List.ofArray)
                        )
                    )

                known[input] <- shapes
                shapes

    /// <summary>A model of a TorchSharp module that shows features on the way, for the methods that compare them.</summary>
    /// <param name="name">Appears in reports and messages.</param>
    /// <param name="classes">The number of classes.</param>
    /// <param name="pooled">The length of the pooled features; 0 if it shows none, and gives the logits in their place.</param>
    /// <param name="make">
    /// Makes the module. It is called again under the run's seed: what it then draws from TorchSharp's generator are the
    /// initial values.
    /// </param>
    /// <param name="show">
    /// Runs the module on images [N, 3, H, W]: maps [N, C, H, W] from the stem on, pooled features [N, pooled], logits
    /// [N, classes].
    /// </param>
    /// <returns>The model. All its forward passes run one module: not from two threads at once.</returns>
    /// <exception cref="T:Ctkd.Fs.CtkdException">
    /// A part keeps its parameters in native code, as <c>MultiheadAttention</c>, <c>TransformerEncoderLayer</c>,
    /// <c>Embedding</c> and <c>LSTM</c> do; or a registered tensor holds whole numbers.
    /// </exception>
    let ofModuleShowing
        (name: string)
        (classes: int)
        (pooled: int)
        (make: unit -> 'M :> ImageModule)
        (show: 'M -> Tensor -> Outputs)
        : Model =
        Natives.Load() |> ignore
        let network = make ()
        check name network
        let all = tensors network
        // A module counts its batches by itself, and the training step counts those of the tree.
        let bound = all |> List.filter (fun (name, _, _) -> not (Layer.isCounter name))
        let own = bound |> List.map (fun (_, x, _) -> x) |> Array.ofList
        let initial = FromModule { Draw = drawn (fun () -> make () :> ImageModule) }
        let mutable mode: bool option = None

        let run (training: bool) (images: Tensor) : Outputs =
            if mode <> Some training then
                network.train training
                mode <- Some training

            show network images

        Model.ofWhole {
            Name = name
            Declares =
                all
                |> List.map (fun (name, x, isTrained) -> {
                    Name = name
                    Shape = Tensor.shape x |> Array.map int |> List.ofArray
                    Initial = if Layer.isCounter name then Fill 0.0 else initial
                    Trained = isTrained
                })
            Forward =
                fun weights training images ->
                    let given = bound |> List.map (fun (name, _, _) -> Tree.find name weights) |> Array.ofList
                    BoundTensors.With(own, given, (fun () -> run training images))
            Maps = shapesOf (run false)
            Pooled = pooled
            Shares = []
            Classes = classes
        }

    /// <summary>A model of a TorchSharp module that is known by its logits: for <c>kd</c>, <c>dkd</c> and every policy.</summary>
    /// <param name="name">Appears in reports and messages.</param>
    /// <param name="classes">The number of classes.</param>
    /// <param name="make">Makes the module, as for <c>ofModuleShowing</c>.</param>
    /// <returns>The model.</returns>
    let ofModule (name: string) (classes: int) (make: unit -> 'M :> ImageModule) : Model =
        ofModuleShowing
            name
            classes
            0
            make
            (fun network images ->
                let logits = network.forward images
                { Features = []; Pooled = logits; Logits = logits }
            )
