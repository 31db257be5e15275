/// Runs with every method under every temperature policy.
module Ctkd.Fs.Tests.RunMethodTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private digits = lazy (Digits.load ())
let private model (name: string) : Model = Zoo.find name 10 |> Error.orRaise

/// Settings of a small run with methods and a policy; the teacher's file is not read.
let private settings (methods: string list) (policy: string) (standardise: bool) : Settings =
    Settings.withMethods methods {
        Runs.small with
            Policy = Runs.policy policy
            Standardise = standardise
            Teacher = "resnet8x4"
            TeacherWeights = "-"
            Student = "resnet8"
    }

let tests =
    testList "RunMethod" [
        test "every method under every policy, standardised or not, builds a plan that trains two steps" {
            Tensor.scoped (fun () ->
                let data = { digits.Value with Train = ImageSet.firstPerClass 5 digits.Value.Train }
                let teacher, student = model "resnet8x4", model "resnet8"

                let weights = Model.declarations teacher |> Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed 3)

                let set = Augment.upload DType.Float32 Device.Cpu data.Mean data.Std data.Train

                for methods in List.map List.singleton Settings.methods @ [ [ "kd"; "crd"; "at"; "dkd" ] ] do
                    for policy in Settings.policies do
                        for standardise in [ false; true ] do
                            Tensor.scoped (fun () ->
                                let s = settings methods policy standardise
                                Must.beEmpty (Settings.mistakes s)

                                let plan =
                                    Settings.plan s student (Some(teacher, weights)) data Device.Cpu |> Error.orRaise

                                let names = plan.Distillation.Value.Distillers |> List.map (snd >> _.Name)
                                Must.equal (List.sort methods) names
                                let values = EpochValues.create plan 1

                                let step state i =
                                    Plans.step plan values state (Augment.plain (8 * i) (8 * i + 8) set)

                                let state = List.fold step (TrainState.start plan) [ 0; 1 ]
                                let what = String.concat "+" methods + " under " + policy

                                for name, x in Tree.toList state.Trained do
                                    Expect.isTrue (Array.forall Double.IsFinite (Tensor.toFloats x)) $"{what}: {name}"

                                Expect.isTrue ((EpochSums.broken state.Sums).IsNone) what
                            )
            )
        }

        test "kd-fixed is KD at T whatever the policy decides, and DTKD's recipe is a sum of two KD losses" {
            let s =
                Settings.withMethods (Settings.methodsOf PolicyName.Dtkd) {
                    Runs.small with
                        Policy = PolicyName.Dtkd
                        T = 3.0
                }

            let student = model "resnet8"
            let pair = ModelPair.create 8 8 [| 0..99 |] 10 student student
            let distillers = Settings.distillers s pair |> Error.orRaise
            Must.equal [ "kd"; "kd-fixed" ] (distillers |> List.map (snd >> _.Name))
            let weights epoch = distillers |> List.map (fst >> Schedule.at epoch)
            Must.equal [ 1.5; 0.5 ] (weights 10)
            Must.equal [ 3.0; 1.0 ] (weights 21)
        }

        test "models that a method cannot match are refused before the run has a folder" {
            inFolder (fun folder ->
                let teach = { Runs.small with Student = "wrn_16_1"; Epochs = 1; Milestones = [] }
                let teacher = Runs.finish (Path.Combine(folder, "teacher")) teach

                let refused methods student batch =
                    let s = Settings.withMethods methods { Runs.small with Student = student; Batch = batch }

                    Run.start Hooks.none (Path.Combine(folder, "run")) {
                        s with
                            Teacher = "wrn_16_1"
                            TeacherWeights = teacher.Checkpoint
                    }
                    |> errorOf

                let error = refused [ "kd"; "vid" ] "vgg8" 16
                Must.equal Mismatch error.Kind
                Must.startWith "vid cannot teach vgg8 from wrn_16_1" error.What
                let small = refused [ "rkd" ] "resnet8" 7
                Must.equal Usage small.Kind
                Must.contain "rkd needs batches of at least 2 images" small.What
                Must.notHold (Directory.Exists(Path.Combine(folder, "run")))
            )
        }

        test "a policy that no method reads is warned of" {
            inFolder (fun folder ->
                let said = ResizeArray<string>()
                let s = Runs.taught "ctkd-global" (Settings.withMethods [ "at"; "pkt" ] Runs.small)
                Run.start { Hooks.none with Say = said.Add } (Runs.run folder) s |> Error.orRaise |> ignore

                Must.have "warning: at, pkt read no softened logits: the policy ctkd-global has no effect" said
            )
        }

        test "a run with CRD, connectors and an instance-wise temperature goes on to the bit" {
            inFolder (fun folder ->
                let s =
                    Runs.taught
                        "ctkd-instance"
                        (Settings.withMethods [ "kd"; "crd"; "vid" ] { Runs.small with WarmUp = 2 })

                let undisturbed = Path.Combine(folder, "undisturbed")
                Runs.finish undisturbed s |> ignore

                for stop in [ 2; 4; 5 ] do
                    let out = Path.Combine(folder, $"stop-{stop}")
                    let stopped = Run.start (Runs.stopAfter stop) out s |> Error.orRaise
                    Must.equal Interrupted stopped.Ending
                    Must.equal s ((Runs.contents stopped.Checkpoint |> fst).Settings)
                    Run.resume Hooks.none out |> Error.orRaise |> ignore

                    Expect.isTrue (Runs.outcome undisturbed = Runs.outcome out) $"stopped after {stop} batches"
            )
        }
    ]
