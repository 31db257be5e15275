namespace Ctkd.Fs.App

open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The flags of `bench`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type BenchArgs =
    | [<MainCommand; Unique>] What of NAME: string
    | [<Unique>] Part of NAME: string
    | [<Unique>] Pairs of COUNT: int
    | [<Unique>] Steps of COUNT: int
    | [<Unique>] Starts of COUNT: int
    | [<Unique>] Precision of NAME: string
    | [<Unique>] Teacher of NAME: string
    | [<Unique>] Student of NAME: string
    | [<Unique>] Device of NAME: string
    | [<Unique>] Out of FOLDER: string
    | [<Unique>] Sides of NAME: string list
    | [<Unique>] Beside of PROGRAM: string
    | [<Hidden>] Serve
    | [<Hidden>] Tf32
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | What _ ->
                "compare (with PyTorch and others), overheads (of policies and distillers) or scaling (with batch, classes, depth) [compare]"
            | Part _ -> "of compare: step, recorded, remembered, teacher, student or data [all; recorded on CUDA alone]"
            | Pairs _ -> "rounds of measurements [15, of overheads 60, of scaling 9]"
            | Steps _ -> "batches a measurement of compare [4] and overheads [1]"
            | Starts _ ->
                "number of starts over which the rounds are spread: of all processes in compare, of the learners in overheads [3]"
            | Precision _ ->
                $"{Command.precisions} [of compare: both; of overheads and scaling: {Names.name Settings.defaults.Precision}]"
            | Teacher _ -> "of overheads: the teacher's model [resnet56]"
            | Student _ -> "of overheads: the student's model [resnet20]"
            | Device _ -> $"cpu, cuda or cuda:N [{Settings.defaults.Device}]"
            | Out _ -> "of scaling: folder of the charts [none are drawn]"
            | Sides _ ->
                "of compare: sides by their names or how these begin, such as ours torchsharp torchsharp-tuned-bf16 pytorch-tuned [ours, and PyTorch untuned]"
            | Beside _ ->
                "of compare: one more program to compare with, the file ctkd or ctkd.dll of another version [none]"
            | Serve -> "internal"
            | Tf32 -> "internal"
            | Json -> "the result as one JSON object"

/// The command `bench`.
module BenchCommand =
    let private benchmarks = [ "compare"; "overheads"; "scaling" ]

    /// The published work as the flags have it. On CUDA, TF32 is on where it is asked for.
    let private work (args: ParseResults<BenchArgs>) (tf32: bool) : Result<Workload.Workload, Error> =
        result {
            let! precision = Command.precision (args.TryGetResult BenchArgs.Precision)
            let! device = Engine.device (args.GetResult(BenchArgs.Device, Settings.defaults.Device))

            // As runs do.
            if Engine.records device then
                Engine.setDeterministic true
                Engine.setTf32 tf32

            return { Workload.published with Precision = precision; Device = device }
        }

    /// The sides that the flags choose; a program that is named is one of them.
    let private sides (args: ParseResults<BenchArgs>) (device: Device) : Result<BenchSides.Side list, Error> =
        let beside = args.TryGetResult BenchArgs.Beside
        let names = args.GetResult(BenchArgs.Sides, BenchSides.usual) @ [ if beside.IsSome then "beside" ]
        BenchSides.all device beside |> BenchSides.choose names (args.TryGetResult BenchArgs.Precision)

    let private counts (pairs: int) (steps: int) (starts: int) : Result<unit, Error> =
        if steps >= 1 && starts >= 1 && pairs >= starts then
            Ok()
        else
            Command.usage
                $"pairs, steps and starts must be at least 1, and pairs no fewer than starts: got {pairs}, {steps} and {starts}"
                "see: ctkd bench --help"

    let private measure (terminal: Terminal) (args: ParseResults<BenchArgs>) : Result<unit, Error> =
        result {
            let what = args.GetResult(BenchArgs.What, "compare")
            // As runs do.
            let! work = work args Settings.defaults.Tf32
            let starts = args.GetResult(BenchArgs.Starts, 3)
            let pairs usual = args.GetResult(BenchArgs.Pairs, usual)

            match what with
            | "compare" ->
                let pairs, steps = pairs 15, args.GetResult(BenchArgs.Steps, 4)
                do! counts pairs steps starts
                let! sides = sides args work.Device

                do!
                    Bench.run terminal {
                        Sides = sides
                        Parts =
                            args.TryGetResult BenchArgs.Part
                            |> Option.map List.singleton
                            |> Option.defaultValue (BenchWork.partsOn work.Device)
                        Pairs = pairs
                        Batches = steps
                        Starts = starts
                    }
            | "overheads" ->
                let pairs, steps = pairs 60, args.GetResult(BenchArgs.Steps, 1)
                do! counts pairs steps starts
                let teacher = args.GetResult(BenchArgs.Teacher, work.Teacher)
                let student = args.GetResult(BenchArgs.Student, work.Student)

                do!
                    [ teacher; student ]
                    |> List.traverseResultM (fun name -> Zoo.find name work.Classes)
                    |> Result.ignore

                Overheads.run terminal { work with Teacher = teacher; Student = student } pairs steps starts
            | "scaling" ->
                let rounds = pairs 9
                do! counts rounds 1 1
                // Before minutes of measurements.
                do! args.TryGetResult BenchArgs.Out |> Option.traverseResult Files.makeFolder |> Result.ignore
                do! Scaling.run terminal work rounds (args.TryGetResult BenchArgs.Out)
            | other -> return! Result.Error(Error.unknown "benchmark" benchmarks other)
        }

    /// The command. The server of one side is ended by a signal as any process is.
    let command (args: ParseResults<BenchArgs>) : int =
        if args.Contains BenchArgs.Serve then
            work args (args.Contains BenchArgs.Tf32) |> Error.orRaise |> BenchWork.serve
            ExitCode.ok
        else
            let terminal = Terminal(args.Contains BenchArgs.Json)
            terminal.Guarded(fun () -> measure terminal args)
