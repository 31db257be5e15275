namespace Ctkd.Fs.App

open System.IO
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The flags of `quickstart`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type QuickstartArgs =
    | [<Unique>] Photos
    | [<Unique>] Backbone of PATH: string
    | [<Unique>] Out of DIR: string
    | [<Unique>] Seed of NUMBER: int
    | [<Unique>] Precision of NAME: string
    | [<Unique>] Device of NAME: string
    | [<Unique>] Threads of COUNT: int
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Photos ->
                "the tour with photographs: a ResNet-18 trained on ImageNet teaches resnet8 to tell blood cells [the digits]"
            | Backbone _ ->
                "with --photos: folder of the ResNet-18, or an ONNX file that gives features [its NuGet package, which `dotnet fsi build.fsx run quickstart --photos` restores]"
            | Out _ ->
                "folder of the runs [runs/quickstart, with --photos runs/photos, or the next free number; an interrupted one is resumed]"
            | Seed _ -> $"seed of everything random [{Settings.defaults.Seed}]"
            | Precision _ -> $"{Command.precisions} [{Names.name Settings.defaults.Precision}]"
            | Device _ -> $"cpu, cuda or cuda:N [{Settings.defaults.Device}]"
            | Threads _ -> Command.threadsHelp
            | Json -> "the result as one JSON object"

/// The tour: a teacher on handwritten digits, and four students that see only 10 images a class.
module Quickstart =
    let private teacherEpochs, private studentEpochs, private perClass = 8, 60, 10

    // The published values, 10 epochs of 240 and 512 hidden units, drive the instance-wise T to its upper bound by epoch 6
    // here, where 60 epochs have 120 steps. Over five seeds these keep it learning; the global T learns with either.
    let private curriculumEpochs, private hidden = 20, 16

    /// The runs by name, the teacher first: how each changes the settings that are common to all.
    let plan (common: Settings) (teacher: string) : (string * Settings) list =
        let student = {
            Tour.withEpochs studentEpochs common with
                Student = "resnet8"
                PerClass = perClass
        }

        let taught (policy: PolicyName) = {
            student with
                Teacher = "resnet20"
                TeacherWeights = teacher
                Policy = policy
        }

        [
            "teacher", { Tour.withEpochs teacherEpochs common with Student = "resnet20" }
            "alone", student
            "kd-t4", taught PolicyName.Fixed
            "ctkd-global", taught PolicyName.CtkdGlobal
            "ctkd-instance",
            {
                taught PolicyName.CtkdInstance with
                    CurriculumEpochs = curriculumEpochs
                    Hidden = hidden
            }
        ]

    /// The tour of the digits in a folder.
    let private digits (terminal: Terminal) (folder: string) (common: Settings) =
        result {
            terminal.Say
                $"a teacher (resnet20) on all training digits, then resnet8 on {perClass} images a class:\nalone, with KD at T = 4, with CTKD's global and with its instance-wise temperature,\nthe last with a curriculum of {curriculumEpochs} epochs and {hidden} hidden units"

            let runs = plan common (Path.Combine(folder, "teacher", "last.safetensors"))

            let! finished =
                runs
                |> List.map (fun (name, settings) -> name, fun hooks -> Prepare.ofSettings hooks settings)
                |> Tour.go terminal folder

            let! _ = Tour.finish terminal folder "Quickstart: handwritten digits" runs.Length "quickstart" finished
            return finished
        }

    /// The command.
    let command (args: ParseResults<QuickstartArgs>) : int =
        let terminal = Terminal(args.Contains QuickstartArgs.Json)
        let isPhotos = args.Contains QuickstartArgs.Photos

        terminal.Stoppable(fun () ->
            result {
                let folder =
                    args.TryGetResult QuickstartArgs.Out
                    |> Option.filter ((<>) "")
                    |> Option.defaultWith (fun () -> Tour.freeFolder (if isPhotos then "photos" else "quickstart"))
                    |> Path.GetFullPath

                let backbone = args.TryGetResult QuickstartArgs.Backbone

                if backbone.IsSome && not isPhotos then
                    return! Command.usage "--backbone is for the tour with photographs" "add --photos"

                let! precision = Command.precision (args.TryGetResult QuickstartArgs.Precision)

                let! common =
                    Settings.validate {
                        Settings.defaults with
                            Seed = args.GetResult(QuickstartArgs.Seed, Settings.defaults.Seed)
                            Precision = precision
                            Device = args.GetResult(QuickstartArgs.Device, Settings.defaults.Device)
                            Threads = args.GetResult(QuickstartArgs.Threads, Settings.defaults.Threads)
                    }

                let! runs =
                    if isPhotos then
                        PhotoTour.go PhotoTour.sizes terminal folder common backbone
                    else
                        digits terminal folder common

                terminal.Json(
                    runs |> List.map (fun (name, summary) -> name, RunResult.ofSummary summary) |> Map.ofList
                )
            }
        )
