namespace Ctkd.Fs.App

open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The command `bench`.
module BenchCommand =
    let private benchmarks = [ "compare"; "overheads"; "scaling" ]

    let private precision (args: ParseResults<BenchArgs>) : Result<Precision, Error> =
        match args.GetResult(BenchArgs.Precision, Settings.defaults.Precision) with
        | "f32" -> Ok F32
        | "bf16" -> Ok Bf16
        | other -> Result.Error(Error.unknown "precision" Settings.precisions other)

    /// The published work as the flags have it. On CUDA, TF32 is on where it is asked for.
    let private work (args: ParseResults<BenchArgs>) (tf32: bool) : Result<Workload.Workload, Error> =
        result {
            let! precision = precision args
            let! device = Engine.device (args.GetResult(BenchArgs.Device, Settings.defaults.Device))

            // As runs do.
            if Engine.records device then
                Engine.setDeterministic true
                Engine.setTf32 tf32

            return { Workload.published with Precision = precision; Device = device }
        }

    /// The sides that the flags choose; a program that is named is one of them.
    let private sides (args: ParseResults<BenchArgs>) (device: Device) : Result<BenchSides.Side list, Error> =
        let beside = args.TryGetResult Beside
        let names = args.GetResult(Sides, BenchSides.usual) @ [ if beside.IsSome then "beside" ]
        BenchSides.all device beside |> BenchSides.choose names (args.TryGetResult BenchArgs.Precision)

    let private counts (pairs: int) (steps: int) (starts: int) : Result<unit, Error> =
        if steps >= 1 && starts >= 1 && pairs >= starts then
            Ok()
        else
            Commands.usage
                $"pairs, steps and starts must be at least 1, and pairs no fewer than starts: got {pairs}, {steps} and {starts}"
                "see: ctkd bench --help"

    let private measure (terminal: Terminal) (args: ParseResults<BenchArgs>) : Result<unit, Error> =
        result {
            let what = args.GetResult(What, "compare")
            // As runs do.
            let! work = work args Settings.defaults.Tf32
            let starts = args.GetResult(Starts, 3)
            let pairs usual = args.GetResult(Pairs, usual)

            match what with
            | "compare" ->
                let pairs, steps = pairs 15, args.GetResult(Steps, 4)
                do! counts pairs steps starts
                let! sides = sides args work.Device

                do!
                    Bench.run terminal {
                        Sides = sides
                        Parts =
                            args.TryGetResult Part
                            |> Option.map List.singleton
                            |> Option.defaultValue (BenchWork.partsOn work.Device)
                        Pairs = pairs
                        Batches = steps
                        Starts = starts
                    }
            | "overheads" ->
                let pairs, steps = pairs 60, args.GetResult(Steps, 1)
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
                do! Scaling.run terminal work rounds (args.TryGetResult BenchArgs.Out)
            | other -> return! Result.Error(Error.unknown "benchmark" benchmarks other)
        }

    /// The command. The server of one side is ended by a signal as any process is.
    let command (args: ParseResults<BenchArgs>) : int =
        if args.Contains Serve then
            work args (args.Contains Tf32) |> Error.orRaise |> BenchWork.serve
            ExitCode.ok
        else
            let terminal = Terminal(args.Contains BenchArgs.Json)
            Commands.guarded terminal (fun () -> measure terminal args)
