/// Students that are modules of TorchSharp.
module Ctkd.Fs.Tests.StudentTests

open System.IO
open Expecto
open TorchSharp
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

/// Convolution, batch normalisation, dropout, linear: of images 8 x 8 to four classes.
type private Net(share: float, classes: int) as this =
    inherit torch.nn.Module<torch.Tensor, torch.Tensor>("Net")
    let conv = torch.nn.Conv2d(3L, 6L, 3L, padding = 1L)
    let norm = torch.nn.BatchNorm2d 6L
    let drop = torch.nn.Dropout share
    let head = torch.nn.Linear(6L, int64 classes)
    let scale = torch.nn.Parameter(torch.ones 6L)
    do this.RegisterComponents()

    member _.Maps(x: torch.Tensor) : torch.Tensor = (norm.forward (conv.forward x)).relu()
    member _.Pooled(maps: torch.Tensor) : torch.Tensor = maps.mean [| 2L; 3L |] * scale
    member _.Head(pooled: torch.Tensor) : torch.Tensor = head.forward (drop.forward pooled)
    override net.forward x = net.Head(net.Pooled(net.Maps x))

let private student (share: float) (classes: int) : Model =
    Student.ofModule "net" classes (fun () -> new Net(share, classes))

let private showing (classes: int) : Model =
    Student.ofModuleShowing
        "net"
        classes
        6
        (fun () -> new Net(0.0, classes))
        (fun net images ->
            let maps = net.Maps images
            let pooled = net.Pooled maps
            { Features = [ maps ]; Pooled = pooled; Logits = net.Head pooled }
        )

let private random (seed: int) (shape: int list) : Tensor =
    Tensor.ofFloats DType.Float32 shape (Rng.normals (List.fold (*) 1 shape) (Rng.ofSeed seed))

let private drawn (seed: int) (model: Model) : Tree =
    Model.declarations model |> Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed seed)

/// A module with the values of a tree.
let private holding (weights: Tree) (net: Net) : Net =
    use _ = torch.no_grad ()

    for struct (name, p) in net.named_parameters () do
        p.copy_ (Tree.find name weights) |> ignore

    net

let private close (expected: Tensor) (actual: Tensor) : unit =
    Must.beClose 1e-5 1e-6 (Tensor.toFloats expected) (Tensor.toFloats actual)

let private refused (make: unit -> #ImageModule) : string =
    (Must.throw<CtkdException>(fun () -> Student.ofModule "refused" 4 make |> ignore)).Message

/// A module around a part that is not its own.
type private Around(part: torch.nn.Module) as this =
    inherit torch.nn.Module<torch.Tensor, torch.Tensor>("Around")

    do
        this.register_module ("part", part)
        this.RegisterComponents()

    override _.forward x = x

/// Modules whose batch normalisation averages over all batches.
type private Averaging(momentum: System.Nullable<float>) as this =
    inherit torch.nn.Module<torch.Tensor, torch.Tensor>("Averaging")
    let norm = torch.nn.BatchNorm2d 3L

    do
        norm.momentum <- momentum
        this.RegisterComponents()

    override _.forward x = norm.forward x

/// A module with a registered tensor of whole numbers.
type private Counting() as this =
    inherit torch.nn.Module<torch.Tensor, torch.Tensor>("Counting")

    do
        this.register_buffer ("places", torch.arange 4L)
        this.RegisterComponents()

    override _.forward x = x

let private tensors (folder: string) = Runs.contents (Path.Combine(folder, "last.safetensors")) |> snd

let tests =
    testList "Student" [
        test "a module's tree has its parameters and buffers, and gradients are those of the module itself" {
            Tensor.scoped (fun () ->
                let model = student 0.0 4
                let weights = drawn 1 model
                use net = holding weights (new Net(0.0, 4))

                let names = [
                    for struct (name, _) in net.named_parameters () do
                        name
                    for struct (name, _) in net.named_buffers () do
                        name
                ]

                Must.equal (List.sort names) (List.sort (Tree.names weights))

                Must.equal
                    5
                    (Model.trainedNames model |> Set.filter (fun name -> name <> "norm.weight" && name <> "norm.bias"))
                        .Count

                let images, labels = random 2 [ 6; 3; 8; 8 ], Tensor.ofInt64s [ 6 ] [| 0L; 1L; 2L; 3L; 0L; 1L |]
                let trained = Model.trainedNames model
                let weights = weights |> Tree.map (fun name x -> if trained.Contains name then Autograd.leaf x else x)
                let leaves = Tree.filter trained.Contains weights
                let loss = (Model.forward model true weights images).Logits |> Tensor.crossEntropy labels
                let gradients = Autograd.gradients loss (Tree.leaves leaves)
                net.train ()
                let own = Tensor.crossEntropy labels (net.forward images)
                own.backward ()
                Must.beSame (Tensor.toFloats own) (Tensor.toFloats loss)

                for name, gradient in List.zip (Tree.names leaves) (List.ofArray gradients) do
                    Must.beSame
                        (Tensor.toFloats (nonNull (nonNull (net.get_parameter name)).grad))
                        (Tensor.toFloats gradient)

                for name in [ "norm.running_mean"; "norm.running_var" ] do
                    Must.beSame
                        (Tensor.toFloats (nonNull (net.get_buffer name)))
                        (Tensor.toFloats (Tree.find name weights))
            )
        }

        test "three steps of training are those of TorchSharp's own optimiser on the module" {
            Tensor.scoped (fun () ->
                let plan = { Plans.alone with Student = student 0.0 4 }
                let batches = [ for seed in 0..2 -> Augment.plain (seed * 8) (seed * 8 + 8) (Plans.upload 24 plan) ]
                let start = TrainState.start plan
                use net = holding start.Student (new Net(0.0, 4))
                net.train ()

                use optimiser =
                    torch.optim.SGD(
                        net.parameters (),
                        0.05,
                        momentum = Sgd.defaults.Momentum,
                        weight_decay = Sgd.defaults.WeightDecay,
                        nesterov = Sgd.defaults.Nesterov
                    )

                let values = EpochValues.create plan 1
                let mutable state = start

                for batch in batches do
                    state <- Plans.step plan values state batch
                    optimiser.zero_grad ()
                    (Tensor.crossEntropy batch.Labels (net.forward batch.Images)).backward()
                    optimiser.step () |> ignore

                for struct (name, p) in net.named_parameters () do
                    close p (Tree.find name state.Student)

                for struct (name, b) in net.named_buffers () do
                    close
                        (b.to_type torch.ScalarType.Float64)
                        (Tensor.toType DType.Float64 (Tree.find name state.Student))

                Must.equal 3.0 (Tree.find "norm.num_batches_tracked" state.Student |> Tensor.toFloat)
            )
        }

        test "a module computes with the tree that it is given, in turn with another, and keeps its own" {
            Tensor.scoped (fun () ->
                let model = student 0.0 4
                let images = random 3 [ 4; 3; 8; 8 ]
                let logits weights = (Model.forward model false weights images).Logits
                let a, b = drawn 1 model, drawn 2 model
                let first = logits a |> Tensor.toFloats
                Must.differ first (logits b |> Tensor.toFloats)
                Must.equal first (logits a |> Tensor.toFloats)

                let raising =
                    Student.ofModuleShowing "raising" 4 0 (fun () -> new Net(0.0, 4)) (fun _ _ -> invalidOp "no")

                Must.throw<System.InvalidOperationException>(fun () ->
                    Model.forward raising false (drawn 1 raising) images |> ignore
                )
                |> ignore

                let without = Tree.filter (fun name -> name <> "head.bias") a
                Must.throw<System.ArgumentException>(fun () -> logits without |> ignore) |> ignore
                Must.equal first (logits a |> Tensor.toFloats)
            )
        }

        test "dropout and batch normalisation of a module are in training only, and repeat with the seed" {
            Tensor.scoped (fun () ->
                let plan = { Plans.alone with Student = student 0.5 4 }
                let set = Plans.upload 20 plan
                let trained () = (TrainState.start plan |> Plans.finish plan set).Student
                let first = trained ()
                Engine.seed Device.Cpu 99UL
                Must.beSameTree first (trained ())
                let images = random 1 [ 4; 3; 8; 8 ]
                let logits training = (Model.forward plan.Student training first images).Logits |> Tensor.toFloats
                Must.equal (logits false) (logits false)
                Must.differ (logits true) (logits true)
            )
        }

        test "the seed decides a module's initial values" {
            Tensor.scoped (fun () ->
                let start seed = (TrainState.start { Plans.alone with Student = student 0.0 4; Seed = seed }).Student
                Must.beSameTree (start 1) (start 1)
                let weight seed = Tree.find "conv.weight" (start seed) |> Tensor.toFloats
                Must.differ (weight 1) (weight 2)
                Must.equal 1.0 (Tree.find "norm.running_var" (start 1) |> Tensor.min |> Tensor.toFloat)
            )
        }

        test "a module is distilled under every policy, and a run of it resumes to the bit" {
            inFolder (fun folder ->
                for policy in Settings.policies do
                    let experiment = {
                        Distil.defaults with
                            Hooks = Hooks.none
                            Settings = Runs.taught policy { Runs.small with Methods = Map [ "kd", 0.5; "dkd", 0.5 ] }
                            Student = Some(student 0.1 10)
                    }

                    let whole, cut = Path.Combine(folder, "whole-" + policy), Path.Combine(folder, "cut-" + policy)
                    Must.equal Finished (Distil.run whole experiment).Ending
                    Distil.run cut { experiment with Hooks = Runs.stopAfter 3 } |> ignore
                    let again = { experiment with Student = Some(student 0.1 10) }
                    Must.equal Finished (Distil.resume cut again).Ending
                    Must.equal (tensors whole) (tensors cut)
            )
        }

        test "a module that shows its maps and pooled features is taught by the methods that compare them" {
            inFolder (fun folder ->
                for method in [ "sp"; "fitnet"; "rkd"; "srrl"; "crd"; "pkt" ] do
                    let experiment student = {
                        Distil.defaults with
                            Hooks = Hooks.none
                            Settings = {
                                Runs.taught "fixed" Runs.small with
                                    Methods = Map [ method, 0.1 ]
                                    DropLast = true
                            }
                            Student = Some student
                    }

                    let run student = Distil.run (Distil.fresh (Path.Combine(folder, method))) (experiment student)

                    if method <> "fitnet" then Must.equal Finished (run (showing 10)).Ending
                    let error = Must.throw<CtkdException>(fun () -> run (student 0.0 10) |> ignore)
                    Must.contain "net shows logits only" error.Message
            )
        }

        test "modules with parameters in native code, or buffers of whole numbers, are refused by name" {
            let around part = refused (fun () -> new Around(part))
            Must.contain "MultiheadAttention" (around (torch.nn.MultiheadAttention(8L, 2L)))
            Must.contain "TransformerEncoderLayer" (around (torch.nn.TransformerEncoderLayer(8L, 2L)))
            Must.contain "Embedding" (around (torch.nn.Embedding(4L, 2L)))
            Must.contain "LSTM" (around (torch.nn.LSTM(4L, 2L)))
            Must.contain "'places'" (refused (fun () -> new Counting()))
            Student.ofModule "norms" 4 (fun () -> new Around(torch.nn.LayerNorm [| 4L |])) |> ignore
        }

        test "a batch normalisation that averages over all batches is refused by name, one with a momentum is not" {
            Must.contain "'norm'" (refused (fun () -> new Averaging(System.Nullable())))
            Student.ofModule "averaging" 4 (fun () -> new Averaging(System.Nullable 0.3)) |> ignore
        }

        test "forward passes of a module leave no tensors behind" {
            // A module's own tensors live as long as it does.
            let model = student 0.0 4
            let weights = drawn 1 model

            Must.leaveNothing (fun () ->
                Tensor.scoped (fun () ->
                    for _ in 1..3 do
                        Model.forward model false weights (random 1 [ 2; 3; 8; 8 ]) |> ignore
                )
            )
        }
    ]
