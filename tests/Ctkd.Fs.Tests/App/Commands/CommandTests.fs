module Ctkd.Fs.Tests.CommandTests

open System
open System.IO
open System.Text.Json.Nodes
open Expecto
open Ctkd.Fs
open Ctkd.Fs.App
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

/// A run of a moment: two epochs of four batches.
let private small = "--subset 50 --batch 16 --epochs 2"

/// The one line of JSON on the standard output.
let private jsonLine (ended: Ended) : JsonNode =
    Must.endWith "\n" ended.Out
    Must.equal 1 (ended.Out.Split('\n', StringSplitOptions.RemoveEmptyEntries).Length)
    JsonNode.Parse ended.Out |> nonNull

let private text (node: JsonNode) (name: string) : string = string node[name]

/// The libraries that the program loads for a command, as the dynamic linker tells them.
let private loaded (arguments: string) : string =
    inFolder (fun folder ->
        let log = [ "LD_DEBUG", "files"; "LD_DEBUG_OUTPUT", Path.Combine(folder, "loaded") ]
        Must.equal 0 ((ctkdWith log "/" arguments).Code)
        Directory.GetFiles(folder, "loaded.*") |> Array.map File.ReadAllText |> String.concat "\n"
    )

let tests =
    testList "Command" [
        // ---- help and wrong usage ----

        test "help of a command names every flag with what it is when it is not given" {
            let withoutDefault = [
                "--weights"
                "--out"
                "--onnx"
                "--data-dir"
                "--resume"
                "--json"
                "--t-scale"
                "--serve"
                "--help"
            ]

            for name, _, flags in Reference.commands () |> List.filter (fun (name, _, _) -> name <> "plot") do
                let help = expect 0 "/" $"{name} --help"
                Must.contain "Exit codes: 0 done, 1 failed or diverged, 2 wrong usage, 130" help.Out
                let options = (help.Out.Split "OPTIONS:")[1]

                for flag in flags do
                    let at = Text.RegularExpressions.Regex.Match(options, $@"\n    {flag}[ ,\n]").Index
                    Expect.isTrue (at > 0) $"{name} --help does not list {flag}"
                    let next = options.IndexOf("\n    --", at + 1)
                    let entry = options.Substring(at, (if next < 0 then options.Length else next) - at)
                    // "[<epoch>...]" stands for a list's values: its brackets hold no default.
                    let plain = entry.Replace("[<", "").Replace("...]", "")

                    Expect.isTrue
                        (plain.Contains '[' || List.contains flag withoutDefault)
                        $"{flag} has no default: {entry}"
        }

        test "help and version succeed, and a bare ctkd is wrong usage that shows the commands" {
            let help = expect 0 "/" "--help"
            let bare = expect 2 "/" ""

            for command in
                [
                    "quickstart"
                    "teach"
                    "distill"
                    "eval"
                    "export"
                    "models"
                    "recipes"
                    "inspect"
                    "convert"
                    "doctor"
                    "bench"
                    "version"
                ] do
                Must.contain $"\n    {command} " help.Out
                Must.contain $"\n    {command} " bare.Err

            for asked in [ "version"; "--version" ] do
                Must.matchRegex @"^ctkd \d+\.\d+\.\d+\n$" ((expect 0 "/" asked).Out)

            Must.matchRegex @"^\d+\.\d+\.\d+$" (text (jsonLine (expect 0 "/" "version --json")) "version")
        }

        test "what computes nothing does not wait for libtorch to be loaded" {
            for libraries in twoAtATime loaded [ "--help"; "distill --help"; "version"; "models"; "recipes" ] do
                Must.contain "libcoreclr.so" libraries
                Must.lack "torch" libraries

            inFolder (fun folder ->
                Must.contain "libtorch_cpu.so" (loaded $"teach --per-class 1 --batch 5 --epochs 1 --out {folder}/a")
            )
        }

        test "an unknown command, flag or name is wrong usage with the nearest names" {
            let wrong = [
                "evall", "unknown command 'evall'", "eval, "
                "teach --epoch 3", "unknown flag '--epoch'", "--epochs, "
                "eval --wieghts x", "unknown flag '--wieghts'", "--weights, "
                "teach --model resnet21", "unknown model 'resnet21'", "resnet20, "
                "teach --data digit", "unknown data set 'digit'", "digits, "
                "teach --precision f64", "unknown precision 'f64'", "f32, "
                "teach --device cpuu", "unknown device 'cpuu'", "cpu, "
                $"distill --weights {Runs.teacher.Value} --policy ctkd-globl",
                "unknown policy 'ctkd-globl'",
                "ctkd-global, "
                $"distill --weights {Runs.teacher.Value} --policy ctkd",
                "unknown policy 'ctkd'",
                "ctkd-global, ctkd-instance, "
            ]

            inFolder (fun folder ->
                for arguments, what, nearest in wrong do
                    let ended = expect 2 folder arguments
                    Must.equal "" ended.Out
                    Must.startWith $"error: {what}" ended.Err
                    Must.contain ("did you mean one of: " + nearest) ended.Err

                Must.beEmpty (Directory.GetFileSystemEntries folder)
            )
        }

        test "values that cannot be are wrong usage, with the flag, the bound and what to do" {
            let wrong = [
                "teach --lr 0", "lr must be finite and > 0, got 0"
                "teach --lr nan", "'nan' is no value for --lr: not finite"
                "teach --lr -1", "lr must be finite and > 0, got -1"
                "teach --lr infinity", "'infinity' is no value for --lr: not finite"
                "teach --lr 1e300", "lr must fit into a 32-bit float"
                "teach --lr 1e-300", "lr must be > 0 as a 32-bit float, where 1E-300 is 0"
                "teach --momentum 0.99999999999", "momentum must be in [0, 1) as a 32-bit float"
                "teach --data-dir /tmp", "--data-dir has no effect on digits"
                $"eval --weights {Runs.teacher.Value} --data-dir /tmp", "--data-dir has no effect on digits"
                $"export --weights {Runs.teacher.Value} --onnx x --size 2147483647", "size must be from 1 to 4096"
                "plot curriculum --epochs 2147483647", "epochs must be at most 100000"
                "plot curriculum --width 2147483647", "width must be at most 20000"
                "teach --threads -1", "threads must be at least 0, got -1"
                "eval --threads 5000 --weights x", "threads must be at most 1024, got 5000"
                "teach --model=", "unknown model '': its name is empty: give one, such as resnet8, "
                $"distill --weights {Runs.teacher.Value} --t 0", "t must be finite and > 0, got 0"
                "teach --t 4", "teach has no teacher"
                "teach --batch 0", "batch must be at least 1, got 0"
                "teach --batch 4000", "batch is 4000, but there are only 3823 training images"
                "teach --epochs 1e3", "--epochs"
                "teach --lr 0 --batch 0", "2 settings are wrong"
                "teach --milestones 3 2", "milestones must be epochs from 1 on in rising order, got 3, 2"
                "teach --mean 0.5", "mean and std must be given together"
                "teach --weights x", "teach has no teacher"
                "distill", "distill needs a teacher's weights"
                "eval", "eval needs weights"
                "export", "export needs weights"
                "export --weights x", "export needs a file to write"
                "bench overhead", "unknown benchmark 'overhead'"
                "bench --part steps", "unknown part 'steps'"
                "bench --sides ours torch", "unknown side 'torch'"
                "bench --sides pytorch-published --precision bf16", "no side is left to measure"
                "bench --pairs 2", "pairs no fewer than starts: got 2, 4 and 3"
                "bench overheads --steps 0", "got 60, 0 and 3"
                "bench scaling --pairs 0", "got 0, 1 and 1"
                "bench scaling --precision f64", "unknown precision 'f64'"
                "models --classes 1", "classes must be at least 2"
                "teach --lr 0.1 --lr 0.2", "more than once"
            ]

            isWrongUsage wrong
        }

        // ---- teach, eval, distill ----

        test "teach, eval and distill work on each other's files" {
            inFolder (fun folder ->
                // On all test images, whose number `eval` tells.
                let small = "--per-class 5 --batch 16 --epochs 2"
                let taught = jsonLine (expect 0 folder $"teach {small} --model resnet14 --out a --json")

                Must.equal ("finished", Path.Combine(folder, "a")) (text taught "ending", text taught "folder")

                for name in [ "settings.json"; "metrics.jsonl"; "last.safetensors"; "best.safetensors"; "report.html" ] do
                    Expect.isTrue (File.Exists(Path.Combine(folder, "a", name))) name

                let measured = jsonLine (expect 0 folder "eval --weights a --json")
                Must.equal ("resnet14", "1797") (text measured "model", text measured "images")
                Must.equal (text taught "top1") (text measured "top1")
                let plain = expect 0 folder "eval --weights a/last.safetensors --model resnet14"
                let top1 = float (text taught "top1")
                let percent = $"%.2f{top1}"

                Must.matchRegex
                    $@"^model +images +top-1 %% +top-5 %% +nll +ece %%\nresnet14 +1797 +{percent} "
                    plain.Out

                Must.contain
                    "are those of resnet14, not of resnet8"
                    ((expect 1 folder "eval --weights a --model resnet8").Err)

                let distilled = expect 0 folder $"distill {small} --weights a --policy ctkd-instance --out b"
                Must.contain $"teacher resnet14: {percent} %% top-1" distilled.Out

                Must.matchRegex
                    @"\ndistill  epoch 2/2  loss \d+\.\d{4}  T \d+\.\d\d  lambda \d\.\d{3}  top-1 "
                    distilled.Out

                Must.contain $"checkpoint {folder}/b/last.safetensors" distilled.Out
            )
        }

        test "with --json the standard output holds the result and nothing else, also of models, doctor and errors" {
            inFolder (fun folder ->
                let models = jsonLine (expect 0 folder "models --json --classes 10")
                Must.equal Zoo.names (models.AsObject() |> Seq.map _.Key |> List.ofSeq)
                let doctor = ctkd folder "doctor --json"
                Must.hold ((jsonLine doctor).AsArray().Count > 5)
                let taught = expect 0 folder $"teach {small} --out a --json"
                Must.equal "finished" (text (jsonLine taught) "ending")
                Must.contain "teach  epoch 2/2" taught.Err
            )
        }

        test "with --json an error is an object on the standard output as well, with its kind, what, where and next" {
            inFolder (fun folder ->
                let wrong = [
                    "teach --resume none --json", 1, "missing", "there is no such file or folder", $"{folder}/none"
                    "teach --lr 0 --json", 2, "usage", "lr must be finite and > 0, got 0", ""
                    "distill --nonsense --json", 2, "usage", "unknown flag '--nonsense'", ""
                    "eval --weights none --json", 1, "missing", "there is no such file or folder", "none"
                    "eval --nonsense --json", 2, "usage", "unknown flag '--nonsense'", ""
                    "models --size x --json", 2, "usage", "'x' is no value for --size: not a number", ""
                    "inspect none --json", 1, "missing", "there is no such file or folder", "none"
                    "plot nothing --json", 2, "usage", "unknown figure 'nothing'", ""
                    "export --weights none --onnx b --json", 1, "missing", "there is no such file or folder", "none"
                ]

                for arguments, code, kind, what, where in wrong do
                    let ended = expect code folder arguments
                    let printed = jsonLine ended
                    let error = nonNull printed["error"]
                    Must.equal kind (text error "kind")
                    Must.startWith what (text error "what")
                    Must.endWith (text error "where") where
                    Must.notHold (text error "next" = "")
                    Must.startWith $"error: {what}" ended.Err
            )
        }

        test "models prints the counts of the zoo, and the layers of one model" {
            let all = jsonLine (expect 0 "/" "models --json")
            let mobile = nonNull all["imagenet/MobileNetV1"]
            Must.equal 4_231_976L ((nonNull mobile["params"]).GetValue<int64>())
            Must.equal 568_740_352L ((nonNull mobile["macs_total"]).GetValue<int64>())
            Must.equal 224 ((nonNull mobile["input_size"]).GetValue<int>())
            Must.beNull mobile["layers"]

            let one = jsonLine (expect 0 "/" "models wrn_16_2 --policy ctkd-instance --json")
            let wrn = nonNull one["wrn_16_2"]
            Must.equal 102_912L ((nonNull wrn["macs_temperature"]).GetValue<int64>())
            let layers = (nonNull wrn["layers"]).AsArray() |> Seq.map nonNull |> List.ofSeq

            let total (field: string) = layers |> List.sumBy (fun layer -> (nonNull layer[field]).GetValue<int64>())

            Must.equal ((nonNull wrn["params"]).GetValue<int64>()) (total "params")
            Must.equal ((nonNull wrn["macs_total"]).GetValue<int64>()) (total "macs")

            let printed = expect 0 "/" "models resnet20 --policy ctkd-instance"
            Must.contain "41.62" printed.Out
            Must.contain "41.72" printed.Out
            Must.contain "layer3.0.downsample.0" printed.Out
            Must.contain "did you mean one of: resnet20" ((expect 2 "/" "models resnet21").Err)
            Must.contain "at least 4 x 4" ((expect 2 "/" "models resnet20 --size 2").Err)
            Must.contain "size must be from 1 to 4096" ((expect 2 "/" "models --size 0").Err)

            let small = (jsonLine (expect 0 "/" "models --size 8 --json")).AsObject() |> Seq.map _.Key |> Set.ofSeq

            Must.have "resnet20" small
            Must.haveNo "MobileNetV2" small
        }

        // ---- doctor ----

        test "doctor finds the engine and what mends it" {
            let doctor, json, none =
                match
                    [
                        [ "OMP_NUM_THREADS", "" ], "doctor"
                        [ "OMP_NUM_THREADS", "" ], "doctor --json"
                        [ "LIBTORCH", "/none" ], "doctor"
                    ]
                    |> twoAtATime (fun (variables, arguments) -> ctkdWith variables "/" arguments)
                with
                | [ doctor; json; none ] -> doctor, json.Out, none
                | others -> failtest $"%A{others}"

            Must.matchRegex @"\nengine +libtorch \d+\.\d+" doctor.Out

            for name in [ "TorchSharp's library"; "threads"; "memory"; "oneDNN"; "CUDA devices"; "processor" ] do
                Must.contain $"\n{name} " doctor.Out

            let findings = Ctkd.Fs.Json.read<Finding list> "" json |> Error.orRaise
            Must.equal (if List.exists _.Mend.IsSome findings then 1 else 0) doctor.Code

            Must.equal 1 none.Code
            Must.matchRegex @"\nengine +LIBTORCH names no libtorch.*: /none +set it to" none.Out
        }

        test "doctor trains on the device that it is asked about, and is told when there is none" {
            let findings = (ctkdWith [ "OMP_NUM_THREADS", "" ] "/" "doctor --device cpu --json").Out
            let findings = Ctkd.Fs.Json.read<Finding list> "" findings |> Error.orRaise
            let steps = findings |> List.filter _.Name.StartsWith("step: ")
            Must.hold (steps.Length > 4)

            for step in steps do
                Must.equal None step.Mend

            for step in steps do
                Must.contain "10 steps the same to the bit" step.Value

            Must.contain "device 'cuda:9'" ((expect 2 "/" "doctor --device cuda:9").Err)
            Must.contain "device 'cuda:9'" ((expect 2 "/" "bench --device cuda:9").Err)
        }

        test "without libtorch a command fails with the one that mends it" {
            inFolder (fun folder ->
                let garbage = Directory.CreateDirectory(Path.Combine(folder, "garbage")).FullName
                File.WriteAllText(Path.Combine(garbage, "libtorch_cpu.so"), "no library")
                File.WriteAllText(Path.Combine(garbage, "libtorch.so"), "no library")
                File.WriteAllText(Path.Combine(garbage, "libc10.so"), "no library")
                let copy = Directory.CreateDirectory(Path.Combine(folder, "copy")).FullName

                // The program without its runtimes/ folder, where the natives lie.
                for file in Directory.GetFiles programFolder do
                    File.Copy(file, Path.Combine(copy, string (Path.GetFileName file)))

                let command arguments =
                    [ "dotnet"; Path.Combine(copy, "ctkd.dll") ] @ List.ofArray ((arguments: string).Split ' ')

                let failures =
                    [
                        for arguments in
                            [
                                $"teach {small}"
                                "quickstart"
                                $"distill {small} --weights {Runs.teacher.Value}"
                                $"eval --weights {Runs.teacher.Value}"
                            ] do
                            "libtorch_cpu", (fun () -> runCommand folder [] (command arguments))

                        for libtorch in [ "/none"; garbage ] do
                            libtorch, (fun () -> ctkdWith [ "LIBTORCH", libtorch ] folder $"teach {small}")
                    ]
                    |> twoAtATime (fun (where, run) -> where, run ())

                for where, ended in failures do
                    Must.equal 1 ended.Code
                    Must.contain "error: " ended.Err
                    Must.contain where ended.Err
                    Must.contain "LIBTORCH" ended.Err
                    Must.lack "   at " ended.Err
            )
        }
    ]
