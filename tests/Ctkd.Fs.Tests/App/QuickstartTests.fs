module Ctkd.Fs.Tests.QuickstartTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.App

/// Trains as a run of the quickstart's plan under a seed, from a teacher: the student, its weights, its test accuracy. The
/// metrics of each epoch, without those of test images, are added to `lines`.
let private run (lines: ResizeArray<EpochMetrics>) (teacher: (Model * Tree) option) (seed: int) (name: string) =
    let s = Map(Quickstart.plan { Settings.defaults with Seed = seed } "")[name]
    let data = Settings.loadData s |> Error.orRaise
    let student = Zoo.find s.Student 10 |> Error.orRaise

    let plan =
        Settings.plan s student teacher data Device.Cpu |> Error.orRaise |> TrainingPlan.prepareTeacher

    let noTest = { Images = 1; Correct = 0; CorrectTop5 = 0; Loss = 0.0 }
    let seen state = lines.Add(Metrics.ofEpoch plan state 0 noTest 1.0 None)
    let weights, top1 = Runs.trainSeen seen { TeacherOutputs.simple with Ahead = s.TeacherAhead } plan data
    (student, weights), top1

/// The tour's teacher and its accuracy.
let private teacher: Lazy<(Model * Tree) * float> =
    lazy
        (Tensor.unscoped
            (fun ((_, weights), _) -> Tree.leaves weights |> Seq.ofArray)
            (fun () -> run (ResizeArray()) None 1 "teacher"))

/// The epochs of a run from the tour's teacher, and its test accuracy.
let private taught (name: string) (seed: int) : EpochMetrics list * float =
    Tensor.scoped (fun () ->
        let lines = ResizeArray()
        let _, top1 = run lines (Some(fst teacher.Value)) seed name
        List.ofSeq lines, top1
    )

/// The students with CTKD's global T under the seeds 1 to 3, for both tests.
let private globals: Lazy<EpochMetrics list * float> list = [ for seed in 1..3 -> lazy (taught "ctkd-global" seed) ]

let tests =
    testList "Quickstart" [
        test "over three seeds the distilled student is at least four points above the student alone in the mean" {
            Tensor.scoped (fun () ->
                let teachers = snd teacher.Value
                let seeds = [ 1..3 ]
                let top1 seed = Tensor.scoped (fun () -> run (ResizeArray()) None seed "alone" |> snd)
                let alone = List.map top1 seeds
                let distilled = globals |> List.map (_.Value >> snd)
                let mean = List.average distilled
                Expect.isTrue (teachers > mean) $"the teacher has only %.2f{teachers} %%"

                Expect.isTrue
                    (mean >= List.average alone + 4.0)
                    $"alone %.2f{List.average alone} %%, distilled %.2f{mean} %%: %A{alone}, %A{distilled}"
            )
        }

        test "both learned temperatures move through the curriculum and never saturate" {
            let all =
                ("ctkd-global", globals.Head.Value)
                :: [ for seed in 1..3 -> "ctkd-instance", taught "ctkd-instance" seed ]

            for name, (epochs, _) in all do
                let slopes = epochs |> List.choose _.SlopeT
                let means = epochs |> List.choose _.T
                Must.equal [ 60; 60 ] [ slopes.Length; means.Length ]
                // sigmoid' is 0.25 in the middle of the range and 0.05 a twentieth of it from a bound.
                Must.lie 0.05 0.25 (List.min slopes)
                Must.lie 3.0 20.0 (List.max means - List.min means)
                Must.beEmpty (epochs |> List.choose _.Warning)

                if name = "ctkd-instance" then
                    for m in List.skip 10 epochs do
                        let spread = m.SpreadT.Value
                        Must.lie 1.5 21.0 (spread.Q95 - spread.Q05)
        }

        test
            "every run of the plan is valid, and the students differ in nothing but their input and the instance-wise curriculum" {
            let plan = Quickstart.plan Settings.defaults "teacher.safetensors"

            Must.equal [ "teacher"; "alone"; "kd-t4"; "ctkd-global"; "ctkd-instance" ] (List.map fst plan)

            Must.beEmpty (plan |> List.collect (snd >> Settings.mistakes))
            let defaults = Settings.defaults

            let input s = {
                s with
                    Teacher = ""
                    TeacherWeights = ""
                    Policy = PolicyName.Own ""
                    CurriculumEpochs = defaults.CurriculumEpochs
                    Hidden = defaults.Hidden
            }

            Must.single (plan.Tail |> List.map (snd >> input) |> List.distinct) |> ignore

            // CTKD's global T keeps the published values.
            Must.equal [ "ctkd-instance" ] [
                for name, s in plan do
                    if (s.CurriculumEpochs, s.Hidden) <> (defaults.CurriculumEpochs, defaults.Hidden) then
                        name
            ]

            Must.equal [ 4.0 ] [
                for name, s in plan do
                    if name = "kd-t4" then s.T
            ]
        }
    ]
